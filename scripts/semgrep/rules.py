"""What each rule must find, and must leave alone: `semgrep --test` reads the comments."""

# ruff: noqa
# ruleid: no-unpickling
import pickle

# ok: no-unpickling
import json


def queries(session, a, b):
    # ruleid: graphql-text-is-constant
    session.query(f"{{ a(b: {a}) }}", 1)
    # ruleid: graphql-text-is-constant
    session.query("{ a }" + b)
    # ruleid: graphql-text-is-constant
    session.query("{ %s }" % a)
    # ruleid: graphql-text-is-constant
    session.query("{ {} }".format(a))
    # ok: graphql-text-is-constant
    session.query(QUERY, {"a": a})


def text(a, numpy, subprocess):
    # ruleid: no-code-from-text
    eval(a)
    # ruleid: no-code-from-text
    subprocess.run(a, shell=True)
    # ok: no-code-from-text
    subprocess.run([a])
    # ruleid: no-unpickling
    numpy.load(a, allow_pickle=True)


def templates():
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    # ruleid: templates-are-sandboxed
    jinja2.Template("")
    # ok: templates-are-sandboxed
    SandboxedEnvironment()


# ruleid: no-base-http-middleware
class Hides(BaseHTTPMiddleware):
    pass


# ok: no-base-http-middleware
class Plain:
    pass


def secrets(key, given, log):
    # ruleid: keys-are-compared-in-constant-time
    key.get_secret_value() == given
    # ok: keys-are-compared-in-constant-time
    compare_digest(key.get_secret_value(), given)
    # ruleid: secrets-are-not-logged
    log.info("key %s", key.get_secret_value())
    # ruleid: secrets-are-not-logged
    StepError("misconfigured", f"the key {key.get_secret_value()} is wrong")
    # ok: secrets-are-not-logged
    log.info("key %s", key)


def clients(httpx):
    # ruleid: clients-have-timeouts
    httpx.Client(base_url="")
    # ok: clients-have-timeouts
    httpx.Client(timeout=3)
    # ruleid: certificates-are-checked
    httpx.get("", verify=False)
    # ok: certificates-are-checked
    httpx.get("")
    # ruleid: redirects-are-not-followed
    httpx.get("", follow_redirects=True)
    # ok: redirects-are-not-followed
    httpx.get("", follow_redirects=False)


def containers(container):
    # ruleid: containers-have-no-root-of-the-engine
    container.with_exec(["a"], insecure_root_capabilities=True)
    # ok: containers-have-no-root-of-the-engine
    container.with_exec(["a"])
