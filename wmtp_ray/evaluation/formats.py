"""Which prompt format a policy is asked in; `auto` decides by its tokenizer, its origin and the problems.

| policy | humaneval | mbpp | others |
|---|---|---|---|
| imported, with a chat template | chat | chat | chat |
| trained on chats (`data.template`) | chat | chat | chat |
| any other | completion or completion-stripped, by its tokens | mbpp-3shot, or mbpp-0shot | instruct |

mbpp-0shot is for files without the examples that the other shows, and for those that ask them too (MBPP+).
Any other policy that was trained here has learnt the plain template, whatever the model it started from. The chosen
format and the reason are printed and saved with the results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from wmtp_ray.config.data import Condition, Template
from wmtp_ray.config.engine import Api
from wmtp_ray.config.evaluation import FormatName, ProblemKind
from wmtp_ray.data.chat_template import chat_template
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.problems import MBPP_EXAMPLES, ProblemSet
from wmtp_ray.evaluation.prompts import FORMATS, PromptFormat, as_chat_row

_PROMPTS_CHECKED = 50
_BODY = "    return"  # where no solution is known


@dataclass(frozen=True)
class Asked:
    """The evaluated policy: its tokenizer, whether it was trained here, what it was told of the rows' labels, and the
    template of its rows.

    `api` is that of the server that answers, None for our own decoders; the tokenizer of a served model may be unknown.
    """

    tokenizer: CodeTokenizer | None
    is_trained: bool
    condition: Condition = "none"
    template: Template = "plain"
    api: Api | None = None

    @property
    def has_template(self) -> bool:
        """Whether it can be asked in a chat template: a server knows its own, and uses it in its chat API alone."""
        if self.api is not None:
            return self.api == "chat"
        assert self.tokenizer is not None, "a decoder has a tokenizer"
        return chat_template(self.tokenizer.model_path.parent) is not None


@dataclass(frozen=True)
class ChosenFormat:
    """A format, and why it was chosen ("asked for" where the configuration names it)."""

    format: PromptFormat
    reason: str


def choose_format(problems: ProblemSet, formats: Mapping[ProblemKind, FormatName], asked: Asked | None) -> ChosenFormat:
    """Return the format of a set's kind, which asks for correct programs where the policy was told labels.

    Raises ConfigError for one that does not fit the kind, or that the policy lacks.

    `asked` is None where the answers exist already.
    """
    chosen = _choose(problems, formats, asked)
    if asked is not None and asked.api is not None:
        _check_api(asked, asked.api, chosen, formats[problems.kind])
    if asked is not None and asked.template == "chat" and chosen.format.name == "chat":
        return ChosenFormat(replace(chosen.format, encode=as_chat_row), chosen.reason)
    if asked is None or asked.condition == "none":
        return chosen
    reason = f"{chosen.reason}; it asks for correct programs (data.condition=label)"
    return ChosenFormat(replace(chosen.format, label="correct"), reason)


def choose_row_format(
    problems: ProblemSet, formats: Mapping[ProblemKind, FormatName], asked: Asked | None
) -> ChosenFormat:
    """Return the format in which a policy writes answers that become rows: `auto` puts problems as rows put them."""
    if formats.get(problems.kind, "auto") != "auto":
        return choose_format(problems, formats, asked)
    return choose_format(replace(problems, kind="instruction"), {"instruction": "auto"}, asked)


def _choose(problems: ProblemSet, formats: Mapping[ProblemKind, FormatName], asked: Asked | None) -> ChosenFormat:
    kind = problems.kind
    if kind not in formats:
        raise ConfigError(f"evaluation.formats names no format for {kind}; add auto, or one of {_fitting(kind)}")
    name = formats[kind]
    if name == "auto":
        return _automatic(problems, asked)
    chosen = FORMATS[name]
    if kind not in chosen.kinds:
        raise ConfigError(
            f"The format {name} does not fit {problems.path}, whose problems are of the kind {kind}; choose one of "
            f"{_fitting(kind)}, or auto"
        )
    if name == "mbpp-3shot" and len(problems.examples) < len(MBPP_EXAMPLES):
        raise ConfigError(
            f"{problems.path} lacks some of the examples {', '.join(MBPP_EXAMPLES)}, which mbpp-3shot shows; "
            "give a file with MBPP's ids from 1 on, or choose the format mbpp-0shot, or auto"
        )
    if name == "chat" and asked is not None and asked.api is None and not asked.has_template:
        assert asked.tokenizer is not None
        raise ConfigError(f"{asked.tokenizer.model_path} has no chat template; choose another format than chat")
    broken = _broken_by_tokens(problems, asked) if name == "completion" else ""
    return ChosenFormat(chosen, f"asked for, although {broken}" if broken else "asked for")


def without_shown(problems: ProblemSet, chosen: PromptFormat) -> ProblemSet:
    """Drop the problems that the prompt shows as worked examples."""
    shown = {each.task_id for each in problems.examples} & {each.task_id for each in problems.problems}
    if chosen.name != "mbpp-3shot" or not shown:
        return problems
    kept = tuple(each for each in problems.problems if each.task_id not in shown)
    return replace(problems, problems=kept, left_out=(*problems.left_out, f"{len(shown)} that the prompt shows"))


def _check_api(asked: Asked, api: Api, chosen: ChosenFormat, name: FormatName) -> None:
    """Raise ConfigError for a format that the server's API cannot put."""
    if api == "chat" and chosen.format.name != "chat":
        raise ConfigError(
            f"The format {chosen.format.name} with engine.api=chat: a chat has messages and no text to go on; choose "
            "the format chat (or auto), or engine.api=completions"
        )
    if api == "completions" and chosen.format.name == "chat":
        raise ConfigError(
            "The format chat with engine.api=completions, which puts prompts without the server's chat template; set "
            "engine.api=chat, or choose another format"
        )
    if api == "completions" and name == "auto" and asked.template == "chat":
        raise ConfigError(
            "The policy was trained on chats (data.template=chat) and engine.api=completions asks without its "
            "template; set engine.api=chat, or name a format"
        )


def _automatic(problems: ProblemSet, asked: Asked | None) -> ChosenFormat:
    if asked is not None and asked.api == "chat":
        return ChosenFormat(FORMATS["chat"], "auto: engine.api=chat")
    if asked is not None and asked.template == "chat" and asked.has_template:
        return ChosenFormat(FORMATS["chat"], "auto: the policy was trained on chats (data.template=chat)")
    if asked is not None and not asked.is_trained and asked.has_template:
        return ChosenFormat(FORMATS["chat"], "auto: an imported model with a chat template of its own")
    if problems.kind == "humaneval":
        return _by_tokens(problems, asked)
    if problems.kind == "mbpp":
        return _few_shot(problems)
    return ChosenFormat(FORMATS["instruct"], "auto: the template of training rows")


def _few_shot(problems: ProblemSet) -> ChosenFormat:
    if len(problems.examples) < len(MBPP_EXAMPLES):
        return ChosenFormat(FORMATS["mbpp-0shot"], "auto: the file lacks the examples of the three-shot prompt")
    if {each.task_id for each in problems.examples} & {each.task_id for each in problems.problems}:
        return ChosenFormat(FORMATS["mbpp-0shot"], "auto: the examples of the three-shot prompt are problems here")
    return ChosenFormat(FORMATS["mbpp-3shot"], "auto: the prompt of the benchmark's paper")


def _by_tokens(problems: ProblemSet, asked: Asked | None) -> ChosenFormat:
    """Prefer the prompt as published, if its tokens begin the tokens of prompt and solution together."""
    if asked is None:
        return ChosenFormat(FORMATS["completion"], "auto: the answers exist already")
    if asked.tokenizer is None:
        reason = "auto: the server's tokenizer is not known; --tokenizer FILE chooses by its tokens"
        return ChosenFormat(FORMATS["completion"], reason)
    published, stripped = (_count_broken(problems, asked.tokenizer, cut) for cut in (str, str.rstrip))
    if not published:
        return ChosenFormat(FORMATS["completion"], "auto: the tokens of prompt and solution begin with the prompt's")
    reason = f"auto: {_broken_by_tokens(problems, asked)}; of the stripped prompt in {stripped}"
    return ChosenFormat(FORMATS["completion-stripped" if stripped < published else "completion"], reason)


def _broken_by_tokens(problems: ProblemSet, asked: Asked | None) -> str:
    """Return in how many problems a prompt does not end where a token does, "" for none."""
    broken = 0 if asked is None or asked.tokenizer is None else _count_broken(problems, asked.tokenizer, str)
    checked = min(len(problems.problems), _PROMPTS_CHECKED)
    where = f"in {broken} of {checked} problems a token spans the end of the prompt"
    return f"{where}, which the model has never seen end so" if broken else ""


def _count_broken(problems: ProblemSet, tokenizer: CodeTokenizer, cut: Callable[[str], str]) -> int:
    """Count prompts whose tokens do not begin the tokens of prompt and solution together."""
    broken = 0
    for problem in problems.first(_PROMPTS_CHECKED):
        whole = problem.reference if problem.reference.startswith(problem.prompt) else problem.prompt + _BODY
        head = tokenizer.encode(cut(problem.prompt))
        broken += tokenizer.encode(whole)[: len(head)] != head
    return broken


def _fitting(kind: ProblemKind) -> str:
    return ", ".join(name for name, each in FORMATS.items() if kind in each.kinds)
