"""References: grammar, normalisation, familiar forms."""

import pytest

from pyengine.errors import InvalidParameter
from pyengine.oci.reference import digest_of, new_name, parse, with_tag

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine", "alpine"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("HOST/app", "HOST/app", "HOST/app"),
        ("a__b/c-d--e/f.g", "docker.io/a__b/c-d--e/f.g", "a__b/c-d--e/f.g"),
        (f"a@sha256:{HEX}", f"docker.io/library/a@sha256:{HEX}", f"a@sha256:{HEX}"),
        (f"a:t@sha256:{HEX}", f"docker.io/library/a:t@sha256:{HEX}", f"a:t@sha256:{HEX}"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)
def test_normalised(text: str, full: str, familiar: str) -> None:
    assert (str(parse(text)), parse(text).familiar) == (full, familiar)
    assert parse(full) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("a/Foo:x", "invalid reference format: repository name (a/Foo) must be lowercase"),
        ("", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:-x", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a:" + "x" * 129, "invalid reference format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        ("a@sha256:" + "0" * 63, "invalid checksum digest length"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert caught.value.message() == message


def test_a_new_name_is_none_of_a_digest() -> None:
    assert new_name(parse("x/sha256")).familiar == "x/sha256:latest"
    for text in ("sha256", "sha256:abc"):
        with pytest.raises(InvalidParameter, match="refusing to create an ambiguous tag"):
            new_name(parse(text))


def test_helpers() -> None:
    assert str(parse("a").with_default_tag()) == "docker.io/library/a:latest"
    assert parse(f"a@sha256:{HEX}").with_default_tag().tag == ""
    assert with_tag(parse("a:1"), "2").familiar == "a:2"
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        with_tag(parse("a"), "no/slash")
    assert digest_of(HEX) == digest_of("sha256:" + HEX) == "sha256:" + HEX
    assert digest_of("sha256:abc") == digest_of("alpine") == ""
