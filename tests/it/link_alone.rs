//! The line to the control plane without an agent around it: which fault a hostile answer is, and what is done with a new
//! credential that no disk takes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pullet::limits;
use pullet::link::{
    Account as _, Credential, CredentialStore, Demands, Endpoint, Fault as LinkFault, JobSource as _, Keeper, LongPoll,
    Pin, PinStore, Registration, RegistrationError, StateDirectory, StoreError,
};
use pullet::metrics::Meter;
use pullet::net::tls::{Roots, client_config};
use pullet::net::{NetError, PlainHttp, Profile, ProxySetting};
use pullet::protocol::{ClusterId, JobId};
use pullet::secret::Secret;
use pullet::trust::identity::NodeKeys;
use serde_json::json;

use crate::agent::CLUSTER;
use crate::hostile::bomb;
use crate::testbed::{Answer, Call, Fault, MEDIA_TYPE, Testbed};

/// A node that is registered, and its line.
struct Registered {
    testbed: Testbed,
    store: Arc<StateDirectory>,
    credential: Credential,
    link: Arc<LongPoll>,
    _home: tempfile::TempDir,
}

fn profile(testbed: &Testbed) -> Profile {
    let mut roots = Roots::none();
    roots.add_pem(testbed.ca_pem().as_bytes(), &testbed.ca_file()).unwrap();
    Profile {
        tls: client_config(roots, None).unwrap().into(),
        proxy: ProxySetting::Direct,
        plain_http: PlainHttp::Refused,
        meter: Meter::default(),
    }
}

fn register(testbed: &Testbed, store: &StateDirectory) -> Result<Credential, RegistrationError> {
    let endpoint = Endpoint::parse(&testbed.endpoint(), PlainHttp::Refused).unwrap();
    let registration = Registration {
        endpoint: &endpoint,
        profile: profile(testbed),
        cluster_id: Some(&ClusterId::parse(CLUSTER).unwrap()),
        display_name: None,
        demands: Demands::default(),
        pin: None,
    };
    registration.exchange(&Secret::new("token", testbed.issue_token(Some(CLUSTER))), store)
}

impl Registered {
    fn new() -> Self {
        let (testbed, home) = (Testbed::start(), tempfile::tempdir().unwrap());
        let store = Arc::new(StateDirectory::open(&home.path().join("state")).unwrap());
        let credential = register(&testbed, &store).unwrap();
        let endpoint = Endpoint::parse(&testbed.endpoint(), PlainHttp::Refused).unwrap();
        let (id, bearer) = (credential.cluster_id.clone(), credential.current.clone());
        let link = Arc::new(LongPoll::new(endpoint, id, bearer, profile(&testbed)));
        Self { testbed, store, credential, link, _home: home }
    }

    /// What one call ends with when this is the answer.
    fn fault(&self, call: Call, fault: Fault) -> LinkFault {
        self.testbed.fault(call, 1, fault);
        let ended = match call {
            Call::Ack => self.link.ack(&JobId::parse("j1").unwrap()).map(drop),
            Call::Jobs => self.link.poll(Duration::from_secs(1)).map(drop),
            _ => self.link.rotate(&self.credential.current, self.credential.keys.as_deref(), None).map(drop),
        };
        ended.err().unwrap_or_else(|| panic!("{call:?} was a success"))
    }
}

const CALLS: [Call; 3] = [Call::Ack, Call::Jobs, Call::Rotate];

#[test]
fn each_hostile_answer_is_a_fault_of_its_own() {
    let node = Registered::new();
    // More than any answer of these may have, also as it comes.
    let packed = Bytes::from(bomb(64 << 20));
    assert!(packed.len() as u64 > limits::SMALL_BODY_BYTES);
    for call in CALLS {
        let fault = node.fault(call, Fault::EndlessSpace);
        assert!(matches!(fault, LinkFault::Network(NetError::TooLong(_))), "{call:?}: {fault:?}");
        let fault = node.fault(call, Fault::LongHead(limits::HEAD_BYTES + 1));
        assert!(matches!(fault, LinkFault::Network(NetError::Http(_))), "{call:?}: {fault:?}");
        let fault = node.fault(call, Fault::redirect(307, "https://elsewhere.example/"));
        assert!(matches!(fault, LinkFault::Stranger(StatusCode::TEMPORARY_REDIRECT)), "{call:?}: {fault:?}");
        for encoding in ["gzip", "identity"] {
            let answer = Answer::of(200, MEDIA_TYPE, packed.clone()).with("content-encoding", encoding);
            let fault = node.fault(call, Fault::Answer(answer));
            let is_told = match call {
                Call::Jobs => matches!(fault, LinkFault::Stranger(StatusCode::OK)),
                _ => matches!(fault, LinkFault::Network(NetError::TooLong(limits::SMALL_BODY_BYTES))),
            };
            assert!(is_told, "{call:?} {encoding}: {fault:?}");
        }
    }
    assert!(node.link.poll(Duration::from_secs(1)).is_ok(), "the next answer is taken");
    node.testbed.fault(Call::Register, 1, {
        let answer = json!({"clusterId": "other", "token": node.testbed.issue_bearer("other")});
        Fault::Answer(Answer::json(&answer))
    });
    let error = register(&node.testbed, &node.store).err().unwrap();
    let RegistrationError::Fault(LinkFault::Unreadable(why)) = &error else { panic!("{error:?}") };
    assert_eq!(*why, "it registered another cluster than the configured one");
}

/// What takes as long as a bound of the agent.
#[test]
fn silence_and_a_drip_are_told_apart() {
    thread::scope(|scope| {
        scope.spawn(|| {
            let fault = Registered::new().fault(Call::Jobs, Fault::Silence);
            assert!(matches!(fault, LinkFault::Network(NetError::Timeout(_))), "{fault:?}");
        });
        scope.spawn(|| {
            let node = Registered::new();
            node.testbed.apply(CLUSTER, crate::testbed::job::config_map("n", "a", &"x".repeat(3_000)));
            let fault = node.fault(Call::Jobs, Fault::Drip(Duration::from_secs(1)));
            assert!(matches!(fault, LinkFault::Network(NetError::TooSlow)), "{fault:?}");
        });
    });
}

/// A state directory whose disk is full as soon as it is to be written, although there was room a moment ago.
struct Full {
    store: Arc<StateDirectory>,
    is_full: AtomicBool,
}

impl PinStore for Full {
    fn load_pin(&self) -> Result<Option<Pin>, StoreError> {
        self.store.load_pin()
    }

    fn save_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        self.store.save_pin(pin)
    }
}

impl CredentialStore for Full {
    fn load(&self) -> Result<Option<Credential>, StoreError> {
        self.store.load()
    }

    fn rehearse(&self) -> Result<(), StoreError> {
        self.store.rehearse()
    }

    fn save(&self, credential: &Credential) -> Result<(), StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::Io(PathBuf::from("credential.json"), io::ErrorKind::StorageFull.into()));
        }
        self.store.save(credential)
    }

    fn keep_authorities(&self, pem: &[u8]) -> Result<(), StoreError> {
        self.store.keep_authorities(pem)
    }

    fn pending_keys(&self) -> Result<Option<NodeKeys>, StoreError> {
        self.store.pending_keys()
    }

    fn keep_keys(&self, keys: &NodeKeys) -> Result<(), StoreError> {
        self.store.keep_keys(keys)
    }

    fn keep_copy(&self) -> Result<(), StoreError> {
        self.store.keep_copy()
    }

    fn put_back(&self) -> Result<(), StoreError> {
        self.store.put_back()
    }

    fn forget_copy(&self) -> Result<(), StoreError> {
        self.store.forget_copy()
    }
}

/// By then the server has ended the old one: the new one is used from memory, and stored with the next rotation.
#[test]
fn a_new_credential_that_the_disk_does_not_take_is_used_from_memory() {
    let node = Registered::new();
    let store = Arc::new(Full { store: Arc::clone(&node.store), is_full: AtomicBool::new(true) });
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let stored = || node.store.load().unwrap().unwrap();
    let first = node.credential.current.token.expose().to_owned();
    let bearer = || node.link.bearer().token.expose().to_owned();
    let rotated = Box::new(move |_: &_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let keeper = Keeper::new(Arc::clone(&node.link), Arc::clone(&store) as _, stored(), rotated);
    keeper.rotate().unwrap();
    let second = bearer();
    assert_ne!(second, first);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    let found = stored();
    assert_eq!((found.current.token.expose(), found.generation), (first.as_str(), 1), "nothing of it is on the disk");
    assert!(node.link.poll(Duration::from_secs(1)).is_ok());
    // What is stored is older, and is no way back after a refusal.
    node.testbed.fault(Call::Jobs, 1, Fault::status(401));
    assert!(matches!(node.link.poll(Duration::from_secs(1)), Err(LinkFault::Unauthorized(_))));
    keeper.recover().unwrap();
    assert_eq!(bearer(), second);
    store.is_full.store(false, Ordering::Relaxed);
    keeper.rotate().unwrap();
    let found = stored();
    assert_eq!((found.current.token.expose(), found.generation), (bearer().as_str(), 3));
    assert_eq!(found.previous.unwrap().token.expose(), second);
    assert_eq!(node.testbed.requests_of(Call::Rotate).len(), 2);
}
