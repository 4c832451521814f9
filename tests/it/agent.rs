//! The real agent as a child process, with a directory of its own.

#![allow(dead_code, reason = "each behaviour test uses a part of the harness")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::testbed::Testbed;

/// The cluster that [`Agent::of`] registers, unless told otherwise.
pub(crate) const CLUSTER: &str = "c1";

/// How long a child may take to end once it was told to. The agent promises 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Environment that would change what the agent does.
const FOREIGN: [&str; 12] = [
    "CREDENTIALS_DIRECTORY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "KUBECONFIG",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "NOTIFY_SOCKET",
    "RUST_LOG",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How an agent is started. Each [`Setup::spawn`] uses the same directories, so that an agent can be
/// started again where another one ended.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    binary: PathBuf,
    home: Arc<TempDir>,
    /// Flags of every start, each replaced by one of the same name.
    defaults: Vec<(String, OsString)>,
    flags: Vec<(String, Option<OsString>)>,
    environment: Vec<(OsString, OsString)>,
}

/// A running agent, killed when dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    home: Arc<TempDir>,
    log: PathBuf,
    /// Where its part of the log begins: agents of one setup share the file.
    log_start: usize,
}

/// How an agent ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Exit code or signal.
    pub(crate) status: ExitStatus,
    /// From the signal to the end.
    pub(crate) took: Duration,
}

impl Agent {
    /// An agent of a testbed: a state directory, a one-time token for [`CLUSTER`], the testbed's CA.
    pub(crate) fn of(testbed: &Testbed) -> Setup {
        Setup::of_cluster(testbed, CLUSTER)
    }

    /// Runs the program with these arguments to its end.
    pub(crate) fn run_to_end<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
        let mut command = program(Path::new(env!("CARGO_BIN_EXE_pullet")));
        command.args(arguments).stdin(Stdio::null());
        run_to_end(command)
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the agent is running");
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> Ended {
        let since = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait(PATIENCE);
        Ended { status, took: since.elapsed() }
    }

    /// Ends the agent as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(PATIENCE);
    }

    /// Waits until the agent ends by itself.
    pub(crate) fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent still runs after {timeout:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Everything it wrote to stdout and stderr.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds a text.
    pub(crate) fn wait_for_log(&self, text: &str, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in the log after {timeout:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Memory in use now, in kB.
    pub(crate) fn rss_kb(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that was ever in use, in kB.
    pub(crate) fn rss_peak_kb(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Threads.
    pub(crate) fn threads(&self) -> u64 {
        self.memory("Threads:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent is running");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Where it keeps its state.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Where the directory target writes.
    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("applied")
    }

    /// Where its status lies while it runs.
    pub(crate) fn status_file(&self) -> PathBuf {
        self.home.path().join("run/status.json")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Captured by the test harness, shown with the failure.
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
            #[allow(clippy::print_stderr, reason = "what the agent said belongs to the failure")]
            {
                eprintln!("--- the end of the agent's log\n{tail}\n---");
            }
        }
    }
}

impl Setup {
    /// As [`Agent::of`] with another cluster.
    pub(crate) fn of_cluster(testbed: &Testbed, cluster: &str) -> Self {
        Self::at(&testbed.endpoint(), &testbed.ca_file(), &testbed.issue_token(Some(cluster)))
    }

    /// An agent of the control plane at this address, with a one-time token.
    pub(crate) fn at(endpoint: &str, ca_file: &Path, one_time_token: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let (state, token) = (home.path().join("state"), home.path().join("token"));
        fs::create_dir(&state).expect("the state directory can be made");
        fs::set_permissions(&state, Permissions::from_mode(0o700)).expect("its mode can be set");
        fs::create_dir(home.path().join("applied")).expect("the target directory can be made");
        write_secret(&token, one_time_token);
        let defaults = vec![
            ("--endpoint".to_owned(), endpoint.into()),
            ("--ca-file".to_owned(), ca_file.into()),
            ("--state-dir".to_owned(), state.into()),
            ("--token-file".to_owned(), token.into()),
            ("--status-file".to_owned(), home.path().join("run/status.json").into()),
        ];
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_pullet"));
        Self { binary, home: Arc::new(home), defaults, flags: Vec::new(), environment: Vec::new() }
    }

    /// Runs another binary than the one that was built for the tests: the static one, where memory counts.
    pub(crate) fn binary(mut self, binary: PathBuf) -> Self {
        self.binary = binary;
        self
    }

    /// Adds a flag with a value. It takes the place of a default of the same name; one that is given here
    /// twice is passed twice.
    pub(crate) fn flag(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.defaults.retain(|(default, _)| default != name);
        self.flags.push((name.to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Adds a flag without a value.
    pub(crate) fn switch(mut self, name: &str) -> Self {
        self.flags.push((name.to_owned(), None));
        self
    }

    /// Leaves a flag out, a default or one that was added.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.defaults.retain(|(default, _)| default != name);
        self.flags.retain(|(flag, _)| flag != name);
        self
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Applies to a directory, and allows config maps, so that anything can be tried.
    pub(crate) fn target_directory(self) -> Self {
        let directory = self.directory();
        self.flag("--target", "directory").flag("--directory", directory).flag("--allow-kind", "/ConfigMap")
    }

    /// Gives the agent a new one-time token.
    pub(crate) fn token(self, token: &str) -> Self {
        write_secret(&self.home.path().join("token"), token);
        self
    }

    /// A directory that is kept as long as the setup or one of its agents.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where the agent keeps its state.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Where the directory target writes.
    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("applied")
    }

    /// Starts `pullet run`.
    pub(crate) fn spawn(&self) -> Agent {
        let log = self.home.path().join("log");
        let file = File::options().create(true).append(true).open(&log).expect("the log can be opened");
        let log_start = fs::read(&log).map_or(0, |bytes| bytes.len());
        let mut command = self.prepare("run");
        command.stdout(file.try_clone().expect("a file can be shared")).stderr(file).stdin(Stdio::null());
        let child = command.spawn().expect("the agent can be started");
        Agent { child, home: Arc::clone(&self.home), log, log_start }
    }

    /// Ends an agent that has the time to close its journal: one that the disk did not let is started and ended again.
    pub(crate) fn close(&self, agent: &mut Agent) {
        for _ in 0..5 {
            let ended = agent.stop();
            assert!(ended.status.success(), "{ended:?}\n{}", agent.log());
            if !agent.log().contains("the disk took too long") {
                return;
            }
            *agent = self.spawn();
            agent.wait_for_log("connected to the control plane", PATIENCE);
        }
        panic!("the disk of this machine is too slow\n{}", agent.log());
    }

    /// Runs a command such as `register` to its end, with the same flags: those of `run` alone have to be
    /// added later.
    pub(crate) fn run_to_end(&self, command: &str) -> Output {
        let mut command = self.prepare(command);
        command.stdin(Stdio::null());
        run_to_end(command)
    }

    /// A command with the flags and the environment of this setup, for what the others cannot do.
    pub(crate) fn prepare(&self, name: &str) -> Command {
        let mut command = program(&self.binary);
        command.arg(name);
        for (flag, value) in &self.defaults {
            command.arg(flag).arg(value);
        }
        for (flag, value) in &self.flags {
            command.arg(flag).args(value);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Writes a file that its owner alone can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).expect("the file can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its mode can be set");
}

fn program(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for name in FOREIGN {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run_to_end(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program can be started");
    let pid = Pid::from_child(&child);
    let (done, is_done) = std::sync::mpsc::channel();
    // Its output is read meanwhile: a full pipe would stop it.
    let reader = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = done.send(());
        output
    });
    let ended = is_done.recv_timeout(PATIENCE * 2).is_ok();
    if !ended {
        let _ = kill_process(pid, Signal::KILL);
    }
    let output = reader.join().expect("the reader ends").expect("its output can be read");
    assert!(ended, "{command:?} did not end\n{}", String::from_utf8_lossy(&output.stderr));
    output
}
