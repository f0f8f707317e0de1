"""Where the files of a model lie: the names that others rely on, and which of several files is read."""

from pathlib import Path

from wmtp_ray.model_folder import HfFolder, ModelFolder, TokenizerFolder


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).touch()


def test_the_files_of_a_model_have_the_names_that_other_programs_know(tmp_path):
    model, hf = ModelFolder(tmp_path), HfFolder(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in (model.params, model.weights, model.meta_weights)] == [
        *("params.json", "model.safetensors", "consolidated.pth")
    ]
    assert {
        model.name_of(path) for path in (model.meta_adapter, model.metadata, model.value_head, model.value_spec)
    } == {*("meta_adapter.yaml", "metadata.json", "value_head.safetensors", "value_head.json")}
    tokenizer = model.tokenizer
    assert {path.name for path in (tokenizer.model, tokenizer.json, tokenizer.config, tokenizer.chat_template)} == {
        *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    }
    assert (hf.config.name, hf.tokenizer.generation_config.name) == ("config.json", "generation_config.json")
    assert hf.weights_choices()[1][1].name == "pytorch_model.bin.index.json"


def test_safetensors_are_preferred_to_metas_checkpoint(tmp_path):
    model = ModelFolder(tmp_path)
    assert model.find_weights() is None
    touch(tmp_path, "consolidated.pth")
    assert model.find_weights() == model.meta_weights
    touch(tmp_path, "model.safetensors")
    assert model.find_weights() == model.weights


def test_parts_of_metas_checkpoint_come_in_order(tmp_path):
    touch(tmp_path, "consolidated.pth", "consolidated.01.pth", "consolidated.00.pth")
    assert [path.name for path in ModelFolder(tmp_path).meta_weight_parts()] == [
        *("consolidated.00.pth", "consolidated.01.pth")
    ]


def test_a_conversion_depends_on_description_weights_and_indexes(tmp_path):
    files = ("config.json", "a.safetensors", "model.safetensors.index.json", "b.bin", "pytorch_model.bin.index.json")
    touch(tmp_path, *files, "README.md", "tokenizer.json")
    assert {path.name for path in HfFolder(tmp_path).origin_files()} == set(files)


def test_the_default_chat_template_comes_before_the_named_ones(tmp_path):
    folder = TokenizerFolder.of(tmp_path / "tokenizer.model")
    assert folder.chat_templates() == []
    touch(
        tmp_path, "additional_chat_templates/tools.jinja", "additional_chat_templates/rag.jinja", "chat_template.jinja"
    )
    assert [path.name for path in folder.chat_templates()] == ["chat_template.jinja", "rag.jinja", "tools.jinja"]
