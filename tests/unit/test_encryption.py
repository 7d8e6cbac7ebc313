"""Boxes: what is sealed opens only as it was sealed, and keys are made once."""

import threading

import pytest

from disparo.encryption import Box, box


def test_what_is_sealed_opens_with_the_same_key_and_label_only():
    mine, other = Box("k" * 32), Box("K" * 32)
    sealed = mine.seal("sk_hidden", "app:1")
    assert b"hidden" not in sealed
    assert Box("k" * 32).open(sealed, "app:1") == "sk_hidden"
    assert mine.open(sealed, "app:2") is None
    assert other.open(sealed, "app:1") is None
    assert mine.seal("sk_hidden", "app:1") != sealed


@pytest.mark.parametrize("harm", [b"", b"short", bytes(40)])
def test_what_is_no_sealed_text_opens_as_nothing(harm):
    assert Box("k" * 32).open(harm, "app:1") is None


def test_a_key_id_and_a_mark_tell_keys_apart_and_hold_nothing_of_them():
    first, second = Box("a" * 32), Box("b" * 32)
    assert first.key_id != second.key_id
    assert first.key_id == Box("a" * 32).key_id
    assert first.mark("secret") != second.mark("secret")
    assert first.mark("secret") == Box("a" * 32).mark("secret")
    assert "a" * 32 not in repr(vars(first)) + first.key_id


def test_all_who_begin_at_once_in_a_home_have_one_key(tmp_path):
    home, found = tmp_path / "new" / "home", []
    barrier = threading.Barrier(16)

    def begin() -> None:
        barrier.wait()
        found.append(box(home, None).key_id)

    threads = [threading.Thread(target=begin) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert [path.name for path in home.iterdir()] == ["encryption.key"]
    assert (home / "encryption.key").stat().st_mode & 0o777 == 0o600
    assert box(home, "k" * 32).key_id not in found
