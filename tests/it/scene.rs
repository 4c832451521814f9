//! A testbed, and an agent of the directory target that polls it: the stage of most behaviour tests.

use std::process::Output;
use std::time::Duration;

use pullet::limits;
use serde_json::Value;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::testbed::job::config_map;
use crate::testbed::{Call, Testbed};

/// Deadline of what takes a few seconds: generous, for a machine that does other things as well.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Deadline of what has to wait for a bound of the agent first.
pub(crate) const LATER: Duration = Duration::from_secs(150);

/// From a signal to the end. The agent promises 5 s, and its bounds say so (the assertion below); the rest is for a machine that
/// does other things as well. What the agent waits for elsewhere takes 20 s and more.
pub(crate) const STOP: Duration = Duration::from_secs(12);

const _: () = {
    let bounds = limits::STOP_DRAIN.as_millis() + limits::STOP_CLOSE.as_millis();
    assert!(bounds < limits::STOP_TIMEOUT.as_millis() && limits::STOP_ACT.as_millis() < limits::STOP_DRAIN.as_millis());
};

/// A control plane and its agent.
pub(crate) struct Scene {
    pub(crate) testbed: Testbed,
    pub(crate) setup: Setup,
    pub(crate) agent: Agent,
}

impl Scene {
    /// An agent that polls.
    pub(crate) fn start() -> Self {
        Self::with(|setup| setup)
    }

    /// As [`Scene::start`], set up in another way.
    pub(crate) fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let testbed = Testbed::start();
        let setup = change(quick(&testbed));
        let agent = setup.spawn();
        testbed.held_poll(SOON);
        Self { testbed, setup, agent }
    }

    /// A job to be done.
    pub(crate) fn apply(&self, name: &str) -> String {
        apply(&self.testbed, name)
    }

    /// A rotation to be done, which is a call of its own, an event and a result.
    pub(crate) fn rotate(&self) -> String {
        self.testbed.intent(CLUSTER, "rotate-operator-credentials", Value::Null)
    }

    /// A job is sent and done.
    pub(crate) fn goes_on(&self) {
        goes_on(&self.testbed);
    }
}

/// A setup with short polls.
pub(crate) fn quick(testbed: &Testbed) -> Setup {
    Agent::of(testbed).target_directory().flag("--wait", "1").flag("--log-level", "debug")
}

/// A job to be done.
pub(crate) fn apply(testbed: &Testbed, name: &str) -> String {
    testbed.apply(CLUSTER, config_map("clinic", name, "x"))
}

/// A job that was sent is done in the end.
pub(crate) fn succeeds(testbed: &Testbed, job: &str, timeout: Duration) {
    let result = testbed.result_of(job, timeout);
    assert_eq!(result["outcome"], "succeeded", "{result}");
}

/// A job is sent and done.
pub(crate) fn goes_on(testbed: &Testbed) {
    let job = apply(testbed, "after");
    succeeds(testbed, &job, LATER);
}

/// Waits until a fault has hit a call.
pub(crate) fn hit(testbed: &Testbed, call: Call, timeout: Duration) {
    testbed.wait_for(&format!("a fault of {call:?}"), timeout, |state| {
        state.requests.iter().any(|seen| seen.call == Some(call) && seen.fault.is_some()).then_some(())
    });
}

/// Requests that broke the contract, but for those of an agent that was killed amid them.
pub(crate) fn broken_by_the_living(testbed: &Testbed) -> Vec<String> {
    testbed.violations().into_iter().filter(|violation| !violation.contains("the body cannot be read")).collect()
}

/// Exit code, and all that a program wrote.
pub(crate) fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// A program ended with this code and said all of these words.
#[track_caller]
pub(crate) fn says(output: &Output, code: i32, words: &[&str]) {
    let (ended, text) = said(output);
    assert_eq!(ended, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}
