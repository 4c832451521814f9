//! The agent under a supervisor that listens on a socket, as systemd does: `sd_notify(3)`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::agent::{Setup, write_secret};
use crate::scene::{SOON, Scene, quick, said};
use crate::testbed::Testbed;

/// A supervisor's end.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Supervisor {
    fn of(setup: &Setup) -> Self {
        let path = setup.home().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, path, heard: Vec::new() }
    }

    fn setup(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", &self.path)
    }

    /// What came until now, and within the next tenth of a second.
    fn listen(&mut self) -> &[String] {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            self.heard.push(String::from_utf8(bytes[..length].to_vec()).unwrap());
        }
        &self.heard
    }

    /// Waits for a message that begins so, and forgets all up to it.
    #[track_caller]
    fn hear(&mut self, start: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(at) = self.listen().iter().position(|message| message.starts_with(start)) {
                return self.heard.drain(..=at).next_back().unwrap();
            }
            assert!(Instant::now() < deadline, "no {start:?}, but {:?}", self.heard);
        }
    }

    /// How many signs of life came in this time.
    fn signs(&mut self, time: Duration) -> usize {
        self.listen();
        self.heard.clear();
        std::thread::sleep(time);
        self.listen().iter().filter(|message| *message == "WATCHDOG=1").count()
    }
}

#[test]
fn an_agent_is_ready_when_its_state_is_open_and_says_in_a_line_how_it_is() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut supervisor = Supervisor::of(&setup);
    let mut agent = supervisor.setup(setup).spawn();
    supervisor.hear("READY=1");
    supervisor.hear("STATUS=connected, waiting for jobs");
    testbed.down();
    let line = supervisor.hear("STATUS=not connected since ");
    assert!(line.contains("it is tried again by itself") && !line.contains('\n'), "{line}");
    testbed.up();
    agent.signal(Signal::HUP);
    supervisor.hear("STATUS=connected");
    agent.stop();
    supervisor.hear("STOPPING=1");
    assert!(!supervisor.listen().iter().any(|message| message == "READY=1"), "{:?}", supervisor.heard);
}

#[test]
fn a_node_whose_line_is_down_is_ready_all_the_same_before_its_registration_and_after() {
    let mut testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut supervisor = Supervisor::of(&setup);
    testbed.down();
    let setup = supervisor.setup(setup);
    let mut agent = setup.spawn();
    supervisor.hear("READY=1");
    supervisor.hear("STATUS=not registered yet, it is tried again: ");
    testbed.up();
    agent.signal(Signal::HUP);
    supervisor.hear("STATUS=connected");
    agent.stop();
    testbed.down();
    let _agent = setup.spawn();
    supervisor.hear("READY=1");
    supervisor.hear("STATUS=not connected since ");
}

#[test]
fn a_token_that_was_refused_is_said_with_what_to_do() {
    let testbed = Testbed::start();
    let setup = quick(&testbed).token("not-the-token-that-was-given-out");
    let mut supervisor = Supervisor::of(&setup);
    let _agent = supervisor.setup(setup.clone()).spawn();
    supervisor.hear("READY=1");
    let line = supervisor.hear("STATUS=the one-time token was refused");
    assert!(line.contains("tried by itself"), "{line}");
    // What systemd hands over is a copy: a new token needs a new start.
    let provided = setup.home().join("credentials");
    std::fs::create_dir(&provided).unwrap();
    write_secret(&provided.join("pullet.token"), "not-the-token-that-was-given-out");
    let state = setup.home().join("other");
    std::fs::create_dir(&state).unwrap();
    let setup = setup.without("--token-file").flag("--state-dir", &state).env("CREDENTIALS_DIRECTORY", &provided);
    let _other = supervisor.setup(setup).spawn();
    let line = supervisor.hear("STATUS=the one-time token was refused");
    assert!(line.contains("restart the unit"), "{line}");
}

#[test]
fn an_agent_that_cannot_run_never_was_ready() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut supervisor = Supervisor::of(&setup);
    let setup = supervisor.setup(setup);
    let mut agent = setup.spawn();
    supervisor.hear("STATUS=connected");
    agent.stop();
    supervisor.listen();
    supervisor.heard.clear();
    std::fs::remove_dir_all(setup.directory()).unwrap();
    let output = setup.run_to_end("run");
    assert_eq!(said(&output).0, 1, "{}", said(&output).1);
    assert_eq!(supervisor.listen(), Vec::<String>::new());
}

#[test]
fn a_process_that_stands_still_says_nothing_and_one_that_runs_gives_signs_of_life() {
    let testbed = Testbed::start();
    let setup = quick(&testbed);
    let mut supervisor = Supervisor::of(&setup);
    let agent = supervisor.setup(setup).env("WATCHDOG_USEC", "1000000").spawn();
    supervisor.hear("STATUS=connected");
    let begin = Instant::now();
    let signs = supervisor.signs(Duration::from_secs(4));
    let most = begin.elapsed().as_millis() / 500 + 2;
    assert!((2..=most).contains(&(signs as u128)), "{signs} in {:?}, and two a second are due", begin.elapsed());
    agent.signal(Signal::STOP);
    // What was on its way when it stopped.
    supervisor.signs(Duration::from_millis(500));
    assert_eq!(supervisor.signs(Duration::from_secs(3)), 0);
    agent.signal(Signal::CONT);
    supervisor.hear("WATCHDOG=1");
}

#[test]
fn a_supervisor_without_a_watchdog_or_with_a_socket_in_no_directory_is_served_and_one_that_is_gone_does_no_harm() {
    let name = format!("pullet-supervised-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let scene = Scene::with(|setup| setup.env("NOTIFY_SOCKET", format!("@{name}")));
    let mut bytes = [0; 4096];
    let mut next = || {
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1");
    assert!(next().starts_with("STATUS="));
    drop(socket);
    scene.goes_on();
}
