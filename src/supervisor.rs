//! Who started the agent and looks after it: systemd, and what it is told (`sd_notify(3)`).
//!
//! Without `NOTIFY_SOCKET` in the environment there is nobody, and nothing is done. Nothing here waits: a supervisor that
//! does not read is not written to.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::limits;
use crate::shutdown::Stop;

/// Whoever looks after this process, if anybody does. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    address: SocketAddr,
    /// Half the time after which silence counts as death; none = nobody watches.
    half: Option<Duration>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    is_ready: bool,
    status: String,
}

impl Supervisor {
    /// As the environment says: `variable` gives its variables.
    pub fn find(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let Some(address) = variable("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes())) else {
            return Self(None);
        };
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        // Without a process id it is meant for whoever reads it.
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watched = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0);
        let half = watched.map(|micros| Duration::from_micros(micros / 2).max(limits::WATCHDOG_MIN));
        Self(Some(Arc::new(Line { address, half, told: Mutex::default() })))
    }

    /// The agent works, or would if whatever `status` names were not in its way: said once.
    pub fn ready(&self, status: &str) {
        let Some(line) = &self.0 else { return };
        let mut told = line.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut told.is_ready, true) {
            line.send("READY=1");
        }
        line.tell(&mut told, status);
    }

    /// How it is, said when that is something else than before.
    pub fn status(&self, status: impl FnOnce() -> Cow<'static, str>) {
        let Some(line) = &self.0 else { return };
        line.tell(&mut line.told.lock().unwrap_or_else(PoisonError::into_inner), &status());
    }

    /// Says that the loop this runs on turns, where somebody watches that, and that the agent stops.
    pub async fn keep(self, stop: Stop) {
        let Some(line) = self.0 else { return };
        while !stop.is_set() {
            let Some(half) = line.half else {
                stop.wait().await;
                break;
            };
            line.send("WATCHDOG=1");
            tokio::select! {
                () = tokio::time::sleep(half) => {}
                () = stop.wait() => {}
            }
        }
        line.send("STOPPING=1");
    }
}

impl Line {
    fn tell(&self, told: &mut Told, status: &str) {
        let status = one_line(status);
        if told.status != status {
            self.send(&format!("STATUS={status}"));
            told.status = status;
        }
    }

    /// A supervisor that cannot be reached is one that is not there.
    fn send(&self, text: &str) {
        let Ok(socket) = UnixDatagram::unbound() else { return };
        if socket.set_nonblocking(true).is_ok() {
            let _ = socket.send_to_addr(text.as_bytes(), &self.address);
        }
    }
}

/// A path from the root, or a name that is in no directory, marked by an `@`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    match name {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name))).ok(),
        _ => None,
    }
}

/// What a server said begins no line of its own: it would be an assignment to systemd.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }) {
        if line.len() + c.len_utf8() > limits::SUPERVISOR_LINE_BYTES {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::{Supervisor, address, one_line};
    use crate::limits;
    use crate::shutdown::Stop;
    use std::borrow::Cow;
    use std::ffi::OsString;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// A supervisor's end: a socket in a directory.
    struct Ear {
        socket: UnixDatagram,
        directory: tempfile::TempDir,
    }

    impl Ear {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, directory }
        }

        fn supervisor(&self, more: &'static [(&'static str, &'static str)]) -> Supervisor {
            let path = OsString::from(self.directory.path().join("notify"));
            Supervisor::find(|name| match name {
                "NOTIFY_SOCKET" => Some(path.clone()),
                name => more.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value)),
            })
        }

        fn heard(&self) -> Vec<String> {
            let mut heard = Vec::new();
            let mut bytes = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut bytes) {
                heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            heard
        }
    }

    #[test]
    fn what_does_not_change_is_said_once() {
        let ear = Ear::new();
        let supervisor = ear.supervisor(&[]);
        supervisor.ready("one");
        supervisor.clone().ready("one");
        supervisor.status(|| Cow::Borrowed("one"));
        assert_eq!(ear.heard(), ["READY=1", "STATUS=one"]);
        supervisor.status(|| Cow::Borrowed("two"));
        supervisor.ready("three");
        assert_eq!(ear.heard(), ["STATUS=two", "STATUS=three"]);
    }

    #[test]
    fn an_abstract_socket_is_reached_and_without_one_nothing_is_done() {
        let name = format!("pullet-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let of = |name: String| Supervisor::find(move |key| (key == "NOTIFY_SOCKET").then(|| OsString::from(&name)));
        of(format!("@{name}")).ready("x");
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
        drop(socket);
        // Nobody is there any more, or was ever.
        of(format!("@{name}")).ready("x");
        for name in ["", "@", "relative", "vsock:2:1", &"/x".repeat(200), "/a\0b"] {
            assert!(address(name.as_bytes()).is_none(), "{name}");
            of(name.to_owned()).ready("x");
        }
        Supervisor::find(|_| None).ready("x");
    }

    #[test]
    fn a_supervisor_that_reads_nothing_holds_nothing_up() {
        let ear = Ear::new();
        let supervisor = ear.supervisor(&[]);
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || {
            for number in 0..2_000 {
                supervisor.status(|| Cow::Owned(number.to_string()));
            }
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\nMAINPID=1\u{1b}[2J"), "a\u{fffd}MAINPID=1\u{fffd}[2J");
        let full = "x".repeat(limits::SUPERVISOR_LINE_BYTES);
        assert_eq!(one_line(&full), full);
        assert_eq!(one_line(&format!("{full}y")), full);
        assert_eq!(one_line(&format!("{}ö", &full[1..])), full[1..], "no half of a character");
    }

    #[test]
    fn a_loop_that_hangs_says_nothing_and_one_that_turns_does() {
        let ear = Ear::new();
        let supervisor = ear.supervisor(&[("WATCHDOG_USEC", "400000")]);
        let stop = Stop::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kept = tokio::spawn(supervisor.keep(stop.clone()));
            let (mut heard, begin) = (Vec::new(), Instant::now());
            while heard.len() < 3 && begin.elapsed() < Duration::from_secs(30) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                heard.extend(ear.heard());
            }
            assert!(heard.len() >= 3 && heard.iter().all(|line| line == "WATCHDOG=1"), "{heard:?}");
            // What blocks the loop blocks all of it.
            std::thread::sleep(Duration::from_millis(1_500));
            assert!(ear.heard().is_empty());
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            assert!(!ear.heard().is_empty());
            stop.set();
            kept.await.unwrap();
            assert_eq!(ear.heard(), ["STOPPING=1"]);
        });
    }

    #[test]
    fn where_nobody_watches_there_is_no_sign_of_life() {
        let other: &[(&str, &str)] = &[("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")];
        for variables in [&[], other, &[("WATCHDOG_USEC", "0")], &[("WATCHDOG_USEC", "soon")]] {
            let ear = Ear::new();
            let supervisor = ear.supervisor(variables);
            let stop = Stop::default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kept = tokio::spawn(supervisor.keep(stop.clone()));
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert!(ear.heard().is_empty(), "{variables:?}");
                stop.set();
                kept.await.unwrap();
            });
            assert_eq!(ear.heard(), ["STOPPING=1"], "{variables:?}");
        }
    }
}
