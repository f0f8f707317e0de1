"""Normalisers of a tokenizer.json: which form of Unicode they are, and which texts they leave alone."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from wmtp_ray.data.text_normaliser import FORMS, ChangedText, Form, TextNormaliser, combined_form

LIBRARY = {"NFC": normalizers.NFC, "NFD": normalizers.NFD, "NFKC": normalizers.NFKC, "NFKD": normalizers.NFKD}
TEXTS = st.text(
    st.sampled_from("e\u0301\u0323é\uac00\u1100\u1161\u212b\ufb01x \n日") | st.characters(exclude_categories=["Cs"])
)


def normaliser(form: Form | None) -> TextNormaliser:
    return TextNormaliser(form, str if form is None else LIBRARY[form]().normalize_str)


@given(forms=st.lists(st.sampled_from(FORMS)), text=TEXTS)
def test_a_sequence_of_forms_is_the_one_form(forms: list[str], text: str) -> None:
    expected = text
    for form in forms:
        expected = unicodedata.normalize(form, expected)
    found = combined_form(forms)
    assert (text if found is None else unicodedata.normalize(found, text)) == expected


@given(form=st.sampled_from(FORMS), text=TEXTS)
def test_a_text_is_changed_where_the_tokenizer_would_change_it(form: Form, text: str) -> None:
    assert normaliser(form).changes(text) == (LIBRARY[form]().normalize_str(text) != text)


def test_without_a_form_nothing_is_changed() -> None:
    assert not normaliser(None).changes("e\u0301")


@pytest.mark.parametrize(
    ("text", "message"),
    [("ab e\u0301 c", r"U\+0065 U\+0301.* at character 3"), ("\u212b", r"\(U\+212B\) at character 0.*NFC")],
)
def test_a_refusal_names_the_place_the_characters_and_the_form(text: str, message: str) -> None:
    with pytest.raises(ChangedText, match=message):
        normaliser("NFC").require_unchanged(text)
