"""People are told by each channel that is set up, and what one of them does not take fails nothing."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from slack_sdk.models.blocks import Block

from mlops.cli import main
from mlops.config import MailSettings
from mlops.notify import channels, mail
from mlops.notify.message import Link, Message
from mlops.notify.slack import blocks, post
from mlops.result import Failure
from tests.receivers import LOGIN, SECRET, MailServer, Webhook, mail_server, text_of

NOWHERE = "9"  # a port at which nobody listens
SEND = ("notify", "send", "--text", "deployed", "--text", "F1 0.99 ü")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "PAUSES", (0.0, 0.0))


@pytest.fixture
def webhook(environment, monkeypatch) -> Iterator[Webhook]:
    with Webhook.listening() as hook:
        monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", hook.url)
        yield hook


def told_of(server: MailServer, monkeypatch: pytest.MonkeyPatch, **other: str) -> None:
    for name, value in (server.environment | other).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def mails(environment, monkeypatch, tmp_path) -> Iterator[MailServer]:
    with mail_server(tmp_path) as server:
        told_of(server, monkeypatch)
        yield server


@pytest.fixture
def result(environment):
    return lambda: json.loads(Path(environment["MAESTRO_RESULT_PATH"]).read_text())


def test_each_channel_that_is_set_up_gets_the_message(webhook, mails, result):
    assert main(SEND) == 0
    assert result() == {"sent": ["slack", "mail"], "lost": {}}
    (text,) = webhook.texts
    assert text.startswith("deployed\nF1 0.99 ü\n")
    (got,) = mails.mails
    assert (got["Subject"], got["From"]) == ("deployed", "maestro@example.com")
    assert got["To"] == "ml@example.com, oncall@example.com"
    assert text_of(got).startswith("deployed\nF1 0.99 ü")
    assert "F1 0.99 ü" in text_of(got, "html")
    assert mails.encrypted == [True]


def test_without_a_channel_the_same_text_is_logged(environment, result, caplog):
    caplog.set_level("INFO")
    assert main(SEND) == 0
    assert "deployed\nF1 0.99 ü" in caplog.text
    assert result() == {"sent": [], "lost": {}}


def test_metrics_and_links_come_by_each_channel(webhook, mails, environment, monkeypatch):
    monkeypatch.setenv("MAESTRO_AIRFLOW_ADDRESS", "https://airflow.example.com/")
    run = environment["MAESTRO_RUN_ID"].replace(":", "%3A").replace("+", "%2B")
    options = (
        *("--metrics", '{"auc": 0.712345, "rows": 100000, "<b>": null}', "--run-id", "abc", "--model", "ctr_model"),
        *(
            "--version",
            "3",
            "--page",
            "Model card=register_model/model_card.html",
            "--link",
            "Notes=https://n.example/?a=1",
        ),
    )
    assert main([*SEND, *options]) == 0
    (got,) = mails.mails
    (posted,) = webhook.received
    html, marked = text_of(got, "html"), json.dumps(posted["blocks"])
    base = f"https://airflow.example.com/dags/ml_pipeline_dag/runs/{run}"
    card = f"https://airflow.example.com/reports/ml_pipeline_dag/{run}/register_model/-1/model_card.html"
    assert f"<a href='{base}'>Run in Airflow</a>" in html
    assert f"<a href='{card}'>Model card</a>" in html
    assert f"<{base}|Run in Airflow>" in marked
    assert f"<{card}|Model card>" in marked
    assert "<https://n.example/?a=1|Notes>" in marked
    # Nobody has said where MLflow's pages are.
    assert "Run in MLflow: /#/runs/abc" in text_of(got)
    assert "<li>Model version: /#/models/ctr_model/versions/3</li>" in html
    assert "<tr><td>auc</td><td>0.7123</td></tr><tr><td>rows</td><td>100000</td></tr>" in html
    assert "auc   0.7123\\nrows  100000\\n&lt;b&gt;" in marked
    assert "<td>&lt;b&gt;</td><td>None</td>" in html


@pytest.mark.parametrize("wrong", ["--metrics=[1]", '--metrics={"a": {}}', "--metrics=x", "--page=card", "--link==x"])
def test_what_is_no_table_and_no_link_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        main([*SEND, wrong])
    assert wrong.partition("=")[0] in capsys.readouterr().err


def test_a_webhook_that_refuses_fails_nothing_and_mail_says_so(webhook, mails, result, caplog, gateway):
    caplog.set_level("DEBUG")
    webhook.status, webhook.said = 400, b"invalid_blocks"
    assert main(SEND) == 0
    lost = result()["lost"]
    assert result()["sent"] == ["mail"]
    assert lost["slack"].startswith("the webhook answered 400 (invalid_blocks): check the Secret")
    message, notice = mails.mails
    assert message["Subject"] == "deployed"
    assert notice["Subject"] == "A message was not sent by slack: deployed"
    assert lost["slack"] in text_of(notice)
    assert f"the message was not sent by slack: {lost['slack']}" in caplog.text
    assert SECRET not in json.dumps(result()) + caplog.text + text_of(notice)
    assert gateway.total("maestro_messages_lost_total", channel="slack") == 1
    assert gateway.total("maestro_messages_lost_total", channel="mail") == 0
    assert gateway.total("maestro_messages_sent_total", channel="mail") == 1


def test_mail_that_is_not_taken_fails_nothing_and_the_webhook_says_so(webhook, mails, result, monkeypatch, caplog):
    monkeypatch.setenv("MAESTRO_MAIL_PASSWORD", "wrong-password")
    assert main(SEND) == 0
    assert result()["sent"] == ["slack"]
    assert "refused the login (535): check the Secret that global.notifications.mail" in result()["lost"]["mail"]
    assert webhook.texts[1].startswith("A message was not sent by mail: deployed\nthe mail server")
    shown = json.dumps(result()) + caplog.text + json.dumps(webhook.received)
    assert not [secret for secret in (*LOGIN.values(), "wrong-password", "@example.com") if secret in shown]


def test_where_no_channel_works_the_task_still_ends_well_and_says_why(environment, result, monkeypatch):
    monkeypatch.setenv("MAESTRO_SLACK_WEBHOOK_URL", f"http://127.0.0.1:{NOWHERE}/{SECRET}")
    monkeypatch.setenv("MAESTRO_MAIL_HOST", "127.0.0.1")
    monkeypatch.setenv("MAESTRO_MAIL_PORT", NOWHERE)
    monkeypatch.setenv("MAESTRO_MAIL_FROM", "maestro@example.com")
    monkeypatch.setenv("MAESTRO_MAIL_TO", "ml@example.com")
    assert main(SEND) == 0
    assert result()["sent"] == []
    assert "the webhook cannot be reached" in result()["lost"]["slack"]
    assert f"the mail server 127.0.0.1:{NOWHERE} cannot be reached (ConnectionRefusedError)" in result()["lost"]["mail"]


@pytest.mark.parametrize(("statuses", "sent"), [([503, 429], ["slack"]), ([503, 503, 503], []), ([500], [])])
def test_what_may_be_over_in_a_moment_is_tried_again(statuses, sent, webhook, result):
    webhook.statuses = [*statuses]
    assert main(SEND) == 0
    assert result()["sent"] == sent
    assert len(webhook.received) == len(statuses) + len(sent)


def test_a_channel_that_does_not_answer_is_not_waited_for_again(environment, result, monkeypatch):
    monkeypatch.setattr("mlops.notify.slack._TIMEOUT", 0.05)
    monkeypatch.setattr("mlops.notify.mail._TIMEOUT", 0.05)
    asked = 0
    with socket.create_server(("127.0.0.1", 0), backlog=10) as silent:
        host, port = silent.getsockname()
        told = {"MAIL_HOST": host, "MAIL_PORT": str(port), "MAIL_FROM": "a@example.com", "MAIL_TO": "b@example.com"}
        for name, value in (told | {"SLACK_WEBHOOK_URL": f"http://{host}:{port}/"}).items():
            monkeypatch.setenv(f"MAESTRO_{name}", value)
        assert main(SEND) == 0
        silent.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == 2
    assert result()["lost"].keys() == {"slack", "mail"}


def test_an_address_that_is_refused_takes_the_mail_from_nobody_else(mails, webhook, result):
    mails.refused = {"oncall@example.com": "550 no such user oncall@example.com"}
    assert main(SEND) == 0
    assert result()["sent"] == ["slack", "mail"]
    assert "refused 1 of 2 addresses" in result()["lost"]["mail"]
    assert "oncall" not in json.dumps(result())
    assert [got["Subject"] for got in mails.mails] == ["deployed"], "the half that works is not told of itself"
    assert len(webhook.received) == 2
    mails.refused = dict.fromkeys(("ml@example.com", "oncall@example.com"), "550 no such user")
    assert main(SEND) == 0
    assert result()["sent"] == ["slack"]
    assert "refused 2 of 2 addresses" in result()["lost"]["mail"]


@pytest.mark.parametrize("security", ["tls", "none"])
def test_mail_goes_by_a_server_that_encrypts_otherwise(security, environment, monkeypatch, tmp_path, result):
    with mail_server(tmp_path, security) as server:
        told_of(server, monkeypatch)
        assert main(SEND) == 0
        assert result()["sent"] == ["mail"]
        assert len(server.mails) == 1


def test_nobody_logs_in_in_the_clear(environment, monkeypatch, tmp_path, result):
    with mail_server(tmp_path, "none") as server:
        told_of(server, monkeypatch, MAESTRO_MAIL_USERNAME="me", MAESTRO_MAIL_PASSWORD="pass")
        assert main(SEND) == 0
        assert "in the clear: set global.notifications.mail.security" in result()["lost"]["mail"]


def test_a_server_whose_certificate_is_not_trusted_gets_nothing(mails, monkeypatch, result):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert main(SEND) == 0
    assert "cannot be trusted (CERTIFICATE_VERIFY_FAILED)" in result()["lost"]["mail"]
    assert mails.mails == []


def test_a_server_without_starttls_gets_nothing(environment, monkeypatch, tmp_path, result):
    with mail_server(tmp_path, "none") as server:
        told_of(server, monkeypatch, MAESTRO_MAIL_SECURITY="starttls")
        assert main(SEND) == 0
        assert "has no STARTTLS" in result()["lost"]["mail"]
        assert server.mails == []


@pytest.mark.parametrize(("key", "name"), [("from", "FROM"), ("to", "TO")])
def test_a_secret_without_addresses_is_named_with_the_key_that_it_lacks(key, name, mails, monkeypatch, result):
    monkeypatch.setenv(f"MAESTRO_MAIL_{name}", "")
    assert main(SEND) == 0
    assert f"existingSecret names has no key `{key}`" in result()["lost"]["mail"]


def test_a_server_is_greeted_and_logged_in_to_without_a_mail(mails, monkeypatch):
    mail.greet(MailSettings.from_environment())
    monkeypatch.setenv("MAESTRO_MAIL_USERNAME", "somebody")
    with pytest.raises(Failure, match=r"refused the login \(535\)"):
        mail.greet(MailSettings.from_environment())
    assert mails.mails == []


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/{SECRET}", f"https://{SECRET}.invalid/", f"http://[{SECRET}", SECRET]
)
def test_a_webhook_that_cannot_be_reached_keeps_its_address_secret(url):
    with pytest.raises(Failure, match="the webhook cannot be reached") as failure:
        post(url, Message("text"))
    assert SECRET not in str(failure.value)
    assert failure.value.__cause__ is None


def test_a_url_of_another_scheme_is_refused():
    with pytest.raises(Failure, match="not one of http or https"):
        post("file:///etc/passwd", Message("text"))


def test_what_a_webhook_says_beyond_a_word_is_not_repeated(webhook):
    webhook.status, webhook.said = 404, f"no /{SECRET} here".encode()
    with pytest.raises(Failure, match="the webhook answered 404: check") as failure:
        post(webhook.url, Message("text"))
    assert SECRET not in str(failure.value)


def test_what_a_task_says_is_neither_a_header_of_the_mail_nor_markup():
    said = "<b> *bold* <!channel> & more\nBcc: else@example.com " + "x" * 200
    got = mail.as_mail(Message(said), "maestro@example.com", ["ml@example.com"])
    assert (got["Bcc"], got["Subject"]) == (None, "<b> *bold* <!channel> & more")
    assert "<b>" not in text_of(got, "html")
    assert text_of(got) == said
    shown = blocks(Message(said, {"<!here>": "<!here>"}))
    assert [block["text"]["type"] for block in shown] == ["plain_text", "plain_text", "mrkdwn"]
    assert "<!here>" not in shown[2]["text"]["text"]


def test_a_text_for_a_webhook_calls_nobody(webhook):
    post(webhook.url, Message("<!channel> & <@U1>"))
    assert webhook.texts == ["&lt;!channel&gt; &amp; &lt;@U1&gt;"]


LONG = Message(
    "a subject that is too long for a header " * 10 + "\n" + "a line\n" * 25_000,
    {f"metric {number}": number / 7 for number in range(900)},
    tuple(Link(f"page {number}", f"https://e.example/{number}") for number in range(900)),
)


@pytest.mark.parametrize("message", [Message("short"), Message("s", {"a": 1}, (Link("l", "/p"),)), LONG])
def test_slacks_own_classes_find_nothing_wrong_with_the_blocks(message):
    shown = blocks(message)
    assert len(shown) <= 50
    for block, parsed in zip(shown, Block.parse_all(shown), strict=True):
        parsed.validate_json()
        assert len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3000)


def test_a_subject_that_is_cut_leaves_nothing_out_of_the_text():
    assert len(LONG.subject) <= 150
    assert LONG.subject.endswith(" ...")
    assert LONG.more == LONG.text.strip()
    assert Message("all of it\nmore").more == "more"
    assert Message("all of it").more == ""
