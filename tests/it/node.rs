//! A node whose installer pinned the owner's key: the stage of the tests of what an attacker gets done.

use std::fs;

use pullet::journal;
use pullet::limits;
use pullet::link::StateDirectory;

use crate::agent::{Agent, CLUSTER, Setup};
use crate::scene::{LATER, SOON, quick, succeeds};
use crate::testbed::job::config_map;
use crate::testbed::owner::Owner;
use crate::testbed::{Job, Testbed};

/// A node whose installer pinned the owner's key.
pub(crate) struct Node {
    pub(crate) testbed: Testbed,
    pub(crate) owner: Owner,
    pub(crate) setup: Setup,
    pub(crate) agent: Agent,
}

impl Node {
    /// It polls.
    pub(crate) fn start() -> Self {
        let (testbed, owner) = (Testbed::start(), Owner::new());
        let setup = pinned(&testbed, &[owner.keyring(1)]);
        let agent = setup.spawn();
        testbed.held_poll(SOON);
        Self { testbed, owner, setup, agent }
    }

    /// Stops and starts.
    pub(crate) fn restart(&mut self) {
        self.agent.stop();
        self.again();
    }

    /// Is killed and starts.
    pub(crate) fn power_cut(&mut self) {
        self.agent.kill();
        self.again();
    }

    /// Starts, and polls.
    pub(crate) fn again(&mut self) {
        let polls = self.testbed.counts().polls;
        self.agent = self.setup.spawn();
        self.testbed.polls(polls + 1, SOON);
    }

    /// Signs a job with the next number.
    pub(crate) fn sign(&self, job: Job) -> Job {
        self.owner.sign(CLUSTER, job)
    }

    /// Sends a job as it is.
    pub(crate) fn send(&self, job: Job) -> String {
        self.testbed.enqueue(CLUSTER, job)
    }

    /// The job is answered `failed` with this reason, nothing was applied, an event says so, and the trust state on the disk
    /// is what it was, byte by byte.
    #[track_caller]
    pub(crate) fn refuses(&self, job: Job, reason: &str) {
        let (before, trusted) = (self.applied(), trust_state(&self.setup));
        let id = self.send(job);
        let result = self.testbed.result_of(&id, LATER);
        assert_eq!(result["outcome"], "failed", "{result}");
        let error = result["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(&format!("{reason}: ")), "{error}");
        assert_eq!(self.applied(), before, "nothing is applied of a refused job");
        let kind = if reason.contains("Envelope") || reason == "UnknownPayloadKey" || reason == "BadTag" {
            "JobPayloadDecryptionFailed"
        } else {
            "JobPayloadSignatureInvalid"
        };
        self.testbed.event("the refusal", LATER, |event| {
            let condition = &event["conditions"][0];
            event["kind"] == kind
                && condition["reason"] == reason
                && condition["message"].as_str().is_some_and(|message| message.contains(&id))
        });
        assert_eq!(trust_state(&self.setup), trusted, "{reason}: a check that failed left a trace");
    }

    /// The job is done.
    #[track_caller]
    pub(crate) fn does(&self, job: Job) -> String {
        let id = self.send(job);
        succeeds(&self.testbed, &id, LATER);
        id
    }

    /// The files of the target, with their contents.
    pub(crate) fn applied(&self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = fs::read_dir(self.agent.directory())
            .expect("the directory is there")
            .filter_map(Result::ok)
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path()).unwrap()))
            .filter(|(name, _)| !name.starts_with('.'))
            .collect();
        files.sort();
        files
    }
}

/// The trust state that lies on the disk, as it is written there; none before anything was trusted. It is read from a copy.
pub(crate) fn trust_state(setup: &Setup) -> Option<Vec<u8>> {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let copy = home.path().join("state");
    let store = StateDirectory::open(&copy).expect("the copy can be opened");
    for name in ["journal", "spool", "checkpoint"] {
        let from = setup.state_dir().join(name);
        if from.exists() {
            fs::copy(from, copy.join(name)).expect("the file can be copied");
        }
    }
    let opened = journal::open::open(store.handle(), limits::JOURNAL_BYTES, 1).expect("the copy is a journal");
    opened.restored.kept.trust.map(|(_, state)| state)
}

/// A setup whose installer gives these keyrings.
pub(crate) fn pinned(testbed: &Testbed, chain: &[String]) -> Setup {
    let setup = quick(testbed);
    let file = setup.home().join("keyring");
    fs::write(&file, chain.join("\n")).unwrap();
    setup.flag("--keyring", file)
}

/// A job to be signed.
pub(crate) fn job(name: &str) -> Job {
    Job::apply(config_map("clinic", name, "x"))
}
