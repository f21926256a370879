"""Two records of images: what both say counts."""

from segshift.data.records import changed_roles

OLD = {"source": {"images": 3, "fingerprint": "a"}, "test": {"images": 2, "fingerprint": "b"}}
NEW = {"source": OLD["source"] | {"content": "x"}, "test": OLD["test"] | {"content": "y"}}


def test_a_record_without_content_is_compared_by_the_rest():
    assert changed_roles(OLD, NEW) == changed_roles(NEW, OLD) == []
    assert changed_roles(OLD, NEW | {"test": NEW["test"] | {"images": 5}}) == ["test"]


def test_other_content_of_the_same_size_is_another_data_set():
    assert changed_roles(NEW, NEW | {"source": NEW["source"] | {"content": "z"}}) == ["source"]


def test_a_role_that_only_one_has():
    assert changed_roles(NEW, {"source": NEW["source"]}) == ["test"]
    assert changed_roles({}, {}) == []
