from pydoc_data.topics import topics as of_this_python

import pytest

from mimicry.data.topics import HELD_OUT, Topics, split_topics

LONG = {
    name: f"Paragraph {name} is long enough not to be a chance repetition of any other one in here." for name in "abcde"
}


def test_whole_topics_are_held_out_by_name_and_come_in_the_order_of_their_names() -> None:
    topics = {"zeta": LONG["a"], "raise": LONG["b"], "alpha": LONG["c"], "import": LONG["d"]}
    assert split_topics(topics) == ([LONG["c"], LONG["a"]], [LONG["d"], LONG["b"]])


def test_a_topic_that_stands_in_longer_ones_is_left_out() -> None:
    whole, other = f"{LONG['a']}\n\n{LONG['b']}\n\nand more", f"{LONG['c']}\n\n{LONG['d']}\n\nand more"
    # Its lines are broken otherwise, and its paragraphs come from two topics.
    part = f"  {LONG['b'].replace(' ', chr(10))}\n \n{LONG['c']}"
    assert split_topics({"whole": whole, "other": other, "part": part, "del": LONG["e"]})[0] == [other, whole]
    assert split_topics({"whole": whole, "other": other, "import": part, "del": LONG["e"]})[1] == [LONG["e"]]


def test_a_topic_that_shares_a_paragraph_with_a_held_out_one_is_not_trained_on() -> None:
    shares = f"{LONG['a']}\n\n{LONG['b']}"
    topics = {"shares": shares, "import": f"{LONG['b']}\n\n{LONG['c']}", "free": LONG["d"]}
    assert split_topics(topics) == ([LONG["d"]], [topics["import"]])


def test_topics_without_a_long_paragraph_are_kept() -> None:
    assert split_topics({"short": "Too short.", "brief": "Too short.", "del": "Short too."})[0] == ["Too short."] * 2


def shingles(texts: tuple[str, ...], words: int = 25) -> set[tuple[str, ...]]:
    split = [text.split() for text in texts]
    return {tuple(text[start : start + words]) for text in split for start in range(len(text) - words + 1)}


def test_the_topics_of_this_python_are_split_without_a_leak() -> None:
    data = Topics().load()
    train, held_out = data.train, data.validation["validation"]
    assert {*train, *held_out} <= set(of_this_python.values())
    assert len(held_out) == len(HELD_OUT & set(of_this_python))
    assert not shingles(train) & shingles(held_out)
    characters = sum(map(len, train)), sum(map(len, held_out))
    assert 320_000 < sum(characters) < 500_000
    assert 0.08 < characters[1] / sum(characters) < 0.15


def test_sources_name_the_python_that_the_text_is_of() -> None:
    data = Topics().load()
    assert set(data.sources) == {"train", "validation"}
    assert all(source.startswith("pydoc_data.topics of Python 3.") for source in data.sources.values())
    assert (data.name, data.num_labels, data.metrics) == ("topics", 0, ("nll_token", "nll_word"))


def test_the_limits_cut_their_split_and_show_in_the_fingerprint() -> None:
    whole, limited = Topics().load(), Topics(max_train_rows=5, max_validation_rows=2).load()
    assert (len(limited.train), len(limited.validation["validation"])) == (5, 2)
    assert limited.available == {"train": len(whole.train), "validation": len(whole.validation["validation"])}
    assert limited.fingerprint != whole.fingerprint == Topics().load().fingerprint


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_train_rows must be >= 1 or null, got 0$"):
        Topics(max_train_rows=0)
