"""Who may read the pages of a real `lepton watch`: who has the token, and whom the proxy before it names."""

from browser import Browser
from helpers import lepton_here
from repairs import SETTINGS, Everything, project_with_repairs, proposal, propose
from services import wait_for
from watching import watching

from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert

TOKEN = "readers only"


def made(project, watch):
    project_with_repairs(project)
    settings = SETTINGS.replace("[watch]\n", f"[watch]\n{watch}\n").replace("workers = 2", "workers = 0")
    (project / "lepton.toml").write_text(settings)
    propose(Queue(project), proposal("data", "the policy of this cause is to ask"))
    return project


def test_without_a_login_nothing_is_read_but_what_machines_ask_for(project):
    made(project, 'login = "env:READERS"')
    with watching(project, "--insecure", READERS=TOKEN) as kit:
        get = kit.client.get
        [incident] = kit.queue.incidents()
        closed = [
            "/",
            "/status.json",
            f"/incidents/{incident.id}",
            "/runbooks/Known",
            "/reports/index.html",
            "//",
            "/./",
        ]
        assert {get(path).status_code for path in closed} == {401}
        assert {get(path, headers={"Authorization": "Bearer wrong"}).status_code for path in closed} == {401}
        assert [get(path).status_code for path in ("/healthz", "/metrics", "/style.css", "/login")] == [200] * 4
        assert get("/status.json", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert get("/", headers={"X-Forwarded-User": "kim"}).status_code == 401  # nobody trusts it
        page = get(f"/incidents/{incident.id}", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, f"/login?next=/incidents/{incident.id}")
        wrong = kit.client.post("/login", data={"token": "wrong", "next": "/"})
        assert (wrong.status_code, "The token is wrong." in wrong.text) == (401, True)
        for target in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
            assert kit.client.post("/login", data={"token": TOKEN, "next": target}).headers["location"] == "/"
        kit.client.cookies.clear()
        assert get("/", headers={"Cookie": "lepton-login=InJlYWRlciI.forged.x"}).status_code == 401


def test_a_browser_logs_in_and_comes_to_the_page_that_it_asked_for(project, tmp_path):
    made(project, 'login = "env:READERS"')
    with watching(project, "--insecure", READERS=TOKEN) as kit, Browser(tmp_path / "profile") as browser:
        [incident] = kit.queue.incidents()
        address = str(kit.client.base_url).rstrip("/")
        seen = browser.open(f"{address}/login?next=/incidents/{incident.id}", 390)
        assert (seen["title"], seen["scroll"] <= 390, seen["errors"]) == ("login", True, [])
        assert browser.accessibility_faults() == []
        browser.value(f"document.querySelector('input[name=token]').value = {TOKEN!r}")
        browser.value("document.querySelector('button').click()")
        wait_for(lambda: browser.value("document.title") == incident.id)
        assert browser.value("document.cookie") == ""  # no script reads it


def test_a_proxy_names_the_user_who_decides_and_nobody_else_does(project):
    made(project, 'user_header = "X-Forwarded-User"')
    with watching(project, "--insecure") as kit:
        [one] = kit.queue.waiting()
        user = {"X-Forwarded-User": "Kim  Lee"}
        origin = {"Origin": str(kit.client.base_url).rstrip("/")}
        assert kit.client.get("/").status_code == 401
        passed_on = user | {"X-Forwarded-For": "203.0.113.9"}  # as proxies say whom they stand for
        assert kit.client.get("/", headers=passed_on).status_code == 200
        assert "You are Kim Lee." in kit.client.get(f"/incidents/{one.incident}", headers=user).text
        fields = {"job": str(one.job), "decision": "reject", "by": "somebody else", "note": ""}
        elsewhere = {"Origin": "http://evil.example"}
        assert kit.client.post("/approvals", data=fields, headers=user | elsewhere).status_code == 403
        assert kit.client.post("/approvals", data=fields, headers=user).status_code == 403
        assert kit.client.post("/approvals", data=fields, headers=origin).status_code == 401
        assert kit.client.post("/approvals", data=fields, headers=user | origin).status_code == 303
        [decision] = kit.queue.remedies(one.incident)[0].decisions
        assert decision.by == "Kim Lee"


def test_the_header_of_a_client_that_is_no_proxy_counts_for_nothing(project):
    made(project, 'user_header = "X-Forwarded-User"\nproxies = ["10.1.2.3"]')
    with watching(project, "--insecure") as kit:
        assert kit.client.get("/", headers={"X-Forwarded-User": "kim"}).status_code == 401
        claims = {"X-Forwarded-User": "kim", "X-Forwarded-For": "10.1.2.3"}  # who connects counts, not what it claims
        assert kit.client.get("/", headers=claims).status_code == 401


def test_a_person_acknowledges_an_incident_by_command_or_page_until_it_is_over(project):
    made(project, "")
    (project / "lepton.toml").write_text(
        (project / "lepton.toml").read_text() + '\n[services.goog]\nowner = "pricing"\n'
    )
    with watching(project, "--insecure") as kit:
        [incident] = kit.queue.incidents()
        address, origin = f"/incidents/{incident.id}", {"Origin": str(kit.client.base_url).rstrip("/")}
        assert "pricing" in kit.client.get(address).text
        form = {"incident": incident.id, "by": "Kim Lee"}
        assert kit.client.post("/acknowledgements", data=form).status_code == 403
        assert kit.client.post("/acknowledgements", data=form | {"by": ""}, headers=origin).status_code == 422
        assert kit.client.post("/acknowledgements", data=form, headers=origin).status_code == 303
        page = kit.client.get(address).text
        assert "by Kim Lee, " in page
        assert "/acknowledgements" not in page
        taken = lepton_here("acknowledge", incident.id, "--by", "Ana", project=project).stdout
        assert taken == f"{incident.id}: acknowledged by Ana (before: Kim Lee)\n"
        shown = lepton_here("incidents", incident.id, project=project).stdout
        assert all(words in shown for words in ("by Ana", "pricing"))
    queue = Queue(project)
    ended = queue.incident(incident.id).alert | {"status": "resolved"}
    queue.receive([Alert.model_validate(ended)], "webhook", Everything())
    late = lepton_here("acknowledge", incident.id, project=project)
    assert late.returncode == 2
    assert "its alert has ended" in late.stderr
