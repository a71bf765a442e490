"""Faults, injected for real: what a run says, how it ends, and what is left of the results.

How a test here works
---------------------
1. A small search runs as a user would start it, as a process of its own (:class:`tests.forked.Forked`).
2. The test waits for an event, such as the first epoch (:func:`tests.faults.tools.wait_for`), never for a time.
3. It injects the fault itself, not an imitation: a full tmpfs, a read-only mount, a SIGKILL, an allocation that fails.
4. It asserts three things: the message, the exit code, and that the result from before still loads
   (:func:`tests.faults.tools.loads`) or that the search resumes.

One file holds one kind of fault. A fault that needs more than the machine allows (mounting without root) is skipped
with the reason. docs/survive.md lists all faults with their messages; a new one gets a row there.
"""
