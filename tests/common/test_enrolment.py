"""Invitation, request and the words that two people compare: who changes a byte on the way is noticed."""

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from fakes.enrolment import Applicant, invitation
from mnemonic import Mnemonic

from fedrad_common.enrolment import (
    Invitation,
    SignedRequest,
    comparison_words,
    document,
    open_invitation,
    open_request,
    read_document,
    same_words,
)
from fedrad_common.errors import FedradError, FormatError, MisuseError
from fedrad_common.identity import NodePublicKey, SigningKey
from fedrad_common.records import Signed, sign

COORDINATOR, NORTH = SigningKey.generate(), Applicant("north")
INVITED = invitation(COORDINATOR)
REQUEST = NORTH.asks(INVITED)
P384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973  # order of the curve


def test_both_sides_read_the_same_six_words_of_the_standard_list() -> None:
    at_the_site, at_the_coordinator = open_request(REQUEST), open_request(SignedRequest.model_validate_json(document(REQUEST)))

    assert at_the_site.words == at_the_coordinator.words
    assert len(at_the_site.words) == 6
    assert set(at_the_site.words) <= set(Mnemonic("english").wordlist)


def test_the_words_are_the_first_66_bits_of_a_hash_of_both_documents() -> None:
    inner = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    bits = "".join(f"{byte:08b}" for byte in hashlib.sha256(b"fedrad-words-1" + inner).digest())
    numbers = [int(bits[11 * place : 11 * place + 11], 2) for place in range(6)]

    assert comparison_words(b"one", b"two") == tuple(Mnemonic("english").wordlist[number] for number in numbers)


def test_the_words_are_compared_in_any_case_and_spacing_and_nothing_else() -> None:
    words = ("abandon", "ability", "able", "about", "above", "absent")

    assert same_words("  Abandon ABILITY, able\tabout above absent. ", words)
    assert not same_words("abandon ability able about above", words)
    assert not same_words("ability abandon able about above absent", words)
    assert not same_words("yes", words)
    assert not same_words("", words)


def test_any_changed_byte_of_a_request_changes_the_words_or_is_refused(tmp_path: Path) -> None:
    content, words = document(REQUEST), open_request(REQUEST).words
    path = tmp_path / "request.json"

    def unnoticed(place: int) -> bool:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            return open_request(read_document(path, SignedRequest, option="REQUEST")).words == words
        except FedradError:
            return False

    assert [place for place in range(len(content)) if unnoticed(place)] == []


def test_any_changed_byte_of_an_invitation_is_refused(tmp_path: Path) -> None:
    content, path = INVITED.document, tmp_path / "invitation.json"

    def unnoticed(place: int) -> bool:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            return bool(open_invitation(read_document(path, Signed, option="--invitation")))
        except FedradError:
            return False

    assert [place for place in range(len(content)) if unnoticed(place)] == []


def test_a_second_valid_signature_of_the_same_request_has_other_words() -> None:
    """ECDSA allows anybody to make one from the first."""
    r, s = decode_dss_signature(bytes.fromhex(REQUEST.node_signature))
    again = REQUEST.model_copy(update={"node_signature": encode_dss_signature(r, P384 - s).hex()})

    assert open_request(again).content == open_request(REQUEST).content
    assert open_request(again).words != open_request(REQUEST).words


def test_somebody_in_the_middle_who_puts_in_his_own_keys_is_noticed_by_the_words_and_by_nothing_else() -> None:
    mallory, his_site = SigningKey.generate(), Applicant("north")
    shown_to_the_site = invitation(mallory)  # same name, same address, his key
    asked_by_the_site = open_request(NORTH.asks(shown_to_the_site))
    shown_to_the_coordinator = open_request(his_site.asks(INVITED))

    # The positive control: every signature fits, on both sides, and the coordinator finds its own invitation.
    assert shown_to_the_coordinator.invitation.content.coordinator == COORDINATOR.public.hex
    assert asked_by_the_site.words != shown_to_the_coordinator.words
    # Nor does it help to put in one of them only.
    assert asked_by_the_site.words != open_request(NORTH.asks(INVITED)).words
    assert shown_to_the_coordinator.words != open_request(NORTH.asks(INVITED)).words


@pytest.mark.parametrize("signer", ["envelope", "node"])
def test_a_request_for_keys_that_one_does_not_hold_is_refused(signer: str) -> None:
    other = Applicant("north").asks(INVITED)
    forged = REQUEST.model_copy(update={f"{signer}_signature": getattr(other, f"{signer}_signature")})

    with pytest.raises(FormatError, match="the signature does not fit"):
        open_request(forged)


def test_an_invitation_that_its_own_key_did_not_sign_is_refused() -> None:
    forged = sign(INVITED.content, SigningKey.generate())

    with pytest.raises(FormatError, match="invitation: the signature does not fit"):
        open_invitation(forged)


def test_a_request_says_two_public_keys_a_name_and_nothing_of_patients() -> None:
    assert set(json.loads(REQUEST.body)) == {"format", "name", "envelope", "node", "invitation", "created", "versions"}
    assert "PRIVATE" not in document(REQUEST).decode()


def test_a_document_survives_the_line_ends_of_mail_but_not_being_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "invitation.json"
    path.write_bytes(INVITED.document + b"\r\n")
    assert read_document(path, Signed, option="--invitation") == INVITED.signed

    path.write_text(json.dumps(json.loads(INVITED.document), indent=2))
    with pytest.raises(FormatError, match="was written anew on the way"):
        read_document(path, Signed, option="--invitation")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff\xfe", b"x" * 300_000])
def test_a_file_that_is_no_document_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "invitation.json").write_bytes(content)

    with pytest.raises(FormatError) as refused:
        read_document(tmp_path / "invitation.json", Signed, option="--invitation")
    assert "invitation.json" in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_missing_file_names_the_option(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(MisuseError, match="--invitation: "):
            read_document(path, Signed, option="--invitation")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"address": "fl.example.org"}, "address"),
        ({"address": "https://fl.example.org:1"}, "address"),
        ({"authority": "none"}, "authority"),
    ],
)
def test_an_invitation_names_an_address_and_certificates(change: dict[str, str], key: str) -> None:
    wrong = Signed(body=json.dumps({**INVITED.content.model_dump(), **change}), signature="0" * 128)

    with pytest.raises(FormatError, match=f"invitation: {key}: "):
        wrong.peek(Invitation, what="invitation")


def test_a_node_key_has_one_text() -> None:
    pem = NORTH.pem
    assert NodePublicKey.from_pem(pem).pem == pem

    for other in (pem + "\n", pem.replace("\n", "\r\n"), "x" + pem, "", SigningKey.generate().public.hex):
        with pytest.raises(FormatError, match="EC P-384"):
            NodePublicKey.from_pem(other)
