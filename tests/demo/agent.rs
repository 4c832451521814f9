//! The agent as a process of its own: this program, started again.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::options::Options;
use crate::testbed::Testbed;
use crate::{CHARTS, CLUSTER, Failure, NAMESPACE};

/// The first argument that makes this program the agent.
pub(crate) const ARGUMENT: &str = "agent";

/// How long a command or a stop may take. The agent promises 5 s for a stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the agent is started.
pub(crate) struct Agent {
    log: PathBuf,
    token: PathBuf,
    verbose: bool,
    /// Flags of every command.
    common: Vec<String>,
    /// Flags of `run`.
    run: Vec<String>,
}

/// The agent while it runs, ended when dropped.
pub(crate) struct Running(Child);

impl Agent {
    /// An agent with its files in `home`, the owner's keyring among them.
    pub(crate) fn new(home: &Path, testbed: &Testbed, options: &Options) -> Self {
        let text = |path: &Path| path.display().to_string();
        let endpoint = testbed.endpoint();
        let common = [
            ("--endpoint", endpoint.as_str()),
            ("--ca-file", &text(&testbed.ca_file())),
            ("--state-dir", &text(&home.join("state"))),
            ("--cluster-id", CLUSTER),
            ("--keyring", &text(&home.join("keyring"))),
        ]
        .map(|(name, value)| format!("{name}={value}"));
        let mut run = vec![
            "--wait=5".to_owned(),
            "--proxy=none".to_owned(),
            "--allow-kind=/ConfigMap".to_owned(),
            format!("--allow-namespace={NAMESPACE}"),
            format!("--allow-chart={CHARTS}"),
            "--allow-chart=catalog:*".to_owned(),
            format!("--log-level={}", if options.verbose { "debug" } else { "info" }),
            "--log-format=text".to_owned(),
            format!("--status-file={}", text(&home.join("status.json"))),
        ];
        if let Some(cluster) = &options.cluster {
            run.push("--target=kubernetes".to_owned());
            run.push(format!("--kubeconfig={}", cluster.kubeconfig.display()));
            run.extend(cluster.context.iter().map(|context| format!("--context={context}")));
            // Nobody in this namespace reports that anything is ready.
            run.push("--succeed-on=applied".to_owned());
        } else {
            run.push("--target=directory".to_owned());
            run.push(format!("--directory={}", home.join("applied").display()));
        }
        Self {
            log: home.join("agent.log"),
            token: home.join("token"),
            verbose: options.verbose,
            common: common.to_vec(),
            run,
        }
    }

    /// Registers with a one-time token.
    pub(crate) fn register(&self, token: &str) -> Result<(), Failure> {
        let written = std::fs::write(&self.token, token)
            .and_then(|()| std::fs::set_permissions(&self.token, Permissions::from_mode(0o600)));
        written.map_err(|error| format!("{} cannot be written: {error}", self.token.display()))?;
        let mut register = Running(self.start("register", &[format!("--token-file={}", self.token.display())])?);
        let status = register.wait(PATIENCE)?;
        if status { Ok(()) } else { Err("`pullet register` failed".to_owned()) }
    }

    /// Starts it for good.
    pub(crate) fn run(&self) -> Result<Running, Failure> {
        Ok(Running(self.start("run", &self.run)?))
    }

    fn start(&self, name: &str, flags: &[String]) -> Result<Child, Failure> {
        let start = || -> io::Result<Child> {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(OsStr::new(ARGUMENT)).arg(name).args(&self.common).args(flags).stdin(Stdio::null());
            if !self.verbose {
                let log = File::options().create(true).append(true).open(&self.log)?;
                command.stdout(log.try_clone()?).stderr(log);
            }
            command.spawn()
        };
        start().map_err(|error| format!("the agent cannot be started: {error}"))
    }
}

impl Running {
    /// Sends SIGTERM, and says how long the agent took.
    pub(crate) fn stop(mut self) -> Result<Duration, Failure> {
        let since = Instant::now();
        kill_process(Pid::from_child(&self.0), Signal::TERM)
            .map_err(|error| format!("the agent cannot be stopped: {error}"))?;
        if self.wait(PATIENCE)? { Ok(since.elapsed()) } else { Err("the agent did not end well".to_owned()) }
    }

    /// Waits for the end, and says whether it was a good one.
    fn wait(&mut self, timeout: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status.success()),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(format!("the agent still runs after {} s", timeout.as_secs())),
                Err(error) => return Err(format!("the agent cannot be waited for: {error}")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
