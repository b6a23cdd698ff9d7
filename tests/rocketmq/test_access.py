"""Credentials, and one port for plaintext and TLS."""

import socket
import ssl

import pytest
import trustme
from conftest import Reader, Refused, fresh


def credentials(secret):
    return {"access": "ann", "secret": secret}


def send(driver, server, topic, **fields):
    name = fresh("producer")
    driver.do("producer", name=name, endpoint=server.grpc, topics=[topic], **fields)
    return driver.do("send", producer=name, topic=topic, body="hello")


def test_only_the_right_secret_lets_a_client_in(own_server, own_driver, language):
    server, topic = own_server(HALFMQ_ROCKETMQ__USERS="bob:other,ann:s3cret"), fresh("guarded")
    driver = own_driver(language)
    send(driver, server, topic, **credentials("s3cret"))
    (message,) = Reader(driver, server, topic, **credentials("s3cret")).take(1)
    assert message["body"] == "hello"
    with pytest.raises(Refused, match="40100|UNAUTHORIZED|signature|route|FAILED"):
        send(own_driver(language), server, topic, **credentials("guessed"))
    assert server.cli("topic", "describe", topic)[0]["queues"], "the native API asks for no credentials yet"


@pytest.mark.languages("java")
@pytest.mark.parametrize("tls", [{}, {"tls": True}, {"tls": False}])
def test_one_port_takes_tls_and_plaintext(server, driver, tls):
    """Unset is what an unmodified application has: TLS, and any certificate."""
    topic = fresh("encrypted")
    send(driver, server, topic, **tls)
    (message,) = Reader(driver, server, topic, **tls).take(1)
    assert message["body"] == "hello"


def shake_hands(server, context):
    host, port = server.grpc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="halfmq.test") as encrypted:
            return encrypted.selected_alpn_protocol(), encrypted.getpeercert(binary_form=True)


def context():
    made = ssl.create_default_context()
    made.set_alpn_protocols(["h2"])
    return made


@pytest.mark.languages("python")
def test_configured_certificate_is_shown(own_server, tmp_path, language):
    authority = trustme.CA()
    issued = authority.issue_cert("halfmq.test")
    files = tmp_path / "chain.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(files[0])
    issued.private_key_pem.write_to_path(files[1])
    server = own_server(HALFMQ_TLS__CERTIFICATE=str(files[0]), HALFMQ_TLS__KEY=str(files[1]))
    trusting = context()
    authority.configure_trust(trusting)
    assert shake_hands(server, trusting)[0] == "h2"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, context())


@pytest.mark.languages("python")
def test_certificate_is_made_at_the_start_if_there_is_none(own_server, language):
    anything = context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    shown = [shake_hands(own_server(), anything) for _ in range(2)]
    assert [protocol for protocol, _ in shown] == ["h2", "h2"]
    assert shown[0][1] != shown[1][1], "each start has a key of its own"
