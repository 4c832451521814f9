//! The machine: its files, its programs, and what is said of each thing that is done there.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::SetupError;
use super::options::Options;
use crate::limits;

/// The user and the group that the unit runs as.
const USER: &str = "pullet";

/// Where our own program may lie so that a unit sees it: by a package, by hand.
const PROGRAMS: [&str; 2] = ["/usr/bin/pullet", "/usr/local/bin/pullet"];

/// The program that runs.
const OWN: &str = "/proc/self/exe";

/// Programs by which a machine is known. The first two are no links.
const OTHERS: [&str; 3] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/sh"];

/// Where a change is rehearsed or made.
pub(super) struct Host {
    root: PathBuf,
    has_root: bool,
    is_dry: bool,
    /// Whether files can be given to somebody.
    may_give: bool,
    /// Whether something was said to be done.
    did: Cell<bool>,
}

/// Whose a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// Of the agent, closed to others.
    Agent,
    /// Of root, for the agent to read.
    Group,
    /// Of root alone.
    Root,
}

/// What is done, as it is said before and after.
#[derive(Clone, Copy)]
pub(super) struct Deed(pub(super) &'static str, pub(super) &'static str);

impl Host {
    /// # Errors
    /// When we may not change anything here.
    pub(super) fn open(options: &Options) -> Result<Self, SetupError> {
        let may_give = rustix::process::geteuid().is_root();
        if !may_give && options.root.is_none() && !options.is_dry_run {
            return Err(SetupError::Impossible("this changes the system: run it as root (sudo), or see --dry-run"));
        }
        Ok(Self {
            has_root: options.root.is_some(),
            root: options.root.clone().unwrap_or_else(|| PathBuf::from("/")),
            is_dry: options.is_dry_run,
            may_give,
            did: Cell::new(false),
        })
    }

    /// A path of the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Whether it is another machine's.
    pub(super) fn has_root(&self) -> bool {
        self.has_root
    }

    pub(super) fn is_dry(&self) -> bool {
        self.is_dry
    }

    /// A line for the person. Nobody reading any more is no error.
    #[allow(clippy::unused_self, reason = "where it is said is the host's to know")]
    pub(super) fn say(&self, text: &str) {
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// Says what was done, or would be.
    pub(super) fn tell(&self, deed: Deed, what: &str) {
        self.did.set(!self.is_dry);
        let words = if self.is_dry { ["would ", deed.0] } else { ["", deed.1] };
        self.say(&[words[0], words[1], " ", what].concat());
    }

    /// Ends what was begun; what it came to is said where it stopped in the middle.
    pub(super) fn end(&self, ended: Result<(), SetupError>) -> Result<(), SetupError> {
        if ended.is_err() && self.did.get() {
            self.say("stopped: what is said above is done and stays; the same command goes on from there");
        }
        ended
    }

    /// Ids of a user or a group, as `passwd` and `group` have them.
    fn id(&self, file: &str) -> Option<u32> {
        let text = fs::read_to_string(self.path(file)).ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(USER))?;
        line.split(':').nth(2)?.parse().ok()
    }

    /// Whether there is the user of the unit.
    pub(super) fn has_user(&self) -> bool {
        self.id("/etc/passwd").is_some() && self.id("/etc/group").is_some()
    }

    fn ids(&self, owner: Owner) -> Result<(u32, u32), SetupError> {
        const NONE: SetupError =
            SetupError::Impossible("there is no user and group pullet: make both (systemd-sysusers)");
        Ok(match owner {
            Owner::Root => (0, 0),
            Owner::Group => (0, self.id("/etc/group").ok_or(NONE)?),
            Owner::Agent => (self.id("/etc/passwd").ok_or(NONE)?, self.id("/etc/group").ok_or(NONE)?),
        })
    }

    /// Makes a directory, with all above it.
    pub(super) fn directory(&self, path: &str, mode: u32, owner: Owner) -> Result<(), SetupError> {
        let full = self.path(path);
        let what = describe(path, mode, owner);
        if self.is_dry {
            if !full.is_dir() {
                self.tell(Deed("make", "made"), &what);
            }
            return Ok(());
        }
        let fault = |error| SetupError::File(full.clone(), error);
        let was_there = full.is_dir();
        fs::create_dir_all(&full).map_err(fault)?;
        let handle = File::open(&full).map_err(fault)?;
        handle.set_permissions(Permissions::from_mode(mode)).map_err(fault)?;
        self.give(&handle, owner).map_err(|error| or_file(error, &full))?;
        if !was_there {
            self.tell(Deed("make", "made"), &what);
        }
        Ok(())
    }

    /// Writes a file as a whole, unless it is there just so; whether it was written.
    pub(super) fn put(&self, path: &str, mode: u32, owner: Owner, bytes: &[u8]) -> Result<bool, SetupError> {
        let full = self.path(path);
        let what = describe(path, mode, owner);
        let is_same = fs::read(&full).is_ok_and(|present| present == bytes);
        if is_same && self.is_dry {
            self.say(&[path, " is as it should be"].concat());
            return Ok(false);
        }
        if self.is_dry {
            self.tell(Deed("write", "wrote"), &what);
            return Ok(true);
        }
        let fault = |error| SetupError::File(full.clone(), error);
        if is_same {
            let file = File::open(&full).map_err(fault)?;
            file.set_permissions(Permissions::from_mode(mode)).map_err(fault)?;
            self.give(&file, owner).map_err(|error| or_file(error, &full))?;
            self.say(&[path, " is as it should be"].concat());
            return Ok(false);
        }
        let directory = full.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(fault)?;
        let name = full.file_name().unwrap_or_default().to_string_lossy();
        // k3s reads no name that begins with a dot, and nobody but root writes to these directories.
        let beside = directory.join([".", &name, ".new"].concat());
        let _ = fs::remove_file(&beside);
        let write = || -> Result<(), SetupError> {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(fault)?;
            file.write_all(bytes).map_err(fault)?;
            self.give(&file, owner).map_err(|error| or_file(error, &full))?;
            file.set_permissions(Permissions::from_mode(mode)).map_err(fault)?;
            file.sync_all().map_err(fault)?;
            fs::rename(&beside, &full).map_err(fault)
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written?;
        self.tell(Deed("write", "wrote"), &what);
        Ok(true)
    }

    /// The text of a file; nothing where there is none.
    pub(super) fn read(&self, path: &str) -> Result<String, SetupError> {
        let full = self.path(path);
        match File::open(&full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            opened => {
                let mut text = String::new();
                let limit = limits::MANIFEST_BYTES;
                match opened.and_then(|file| file.take(limit + 1).read_to_string(&mut text)) {
                    Ok(count) if count as u64 <= limit => Ok(text),
                    Ok(_) => Err(SetupError::File(full, io::ErrorKind::FileTooLarge.into())),
                    Err(error) => Err(SetupError::File(full, error)),
                }
            }
        }
    }

    /// Removes a file, or a directory with all that is in it; not a word where there is none.
    pub(super) fn remove(&self, path: &str) -> Result<(), SetupError> {
        let full = self.path(path);
        let Ok(found) = full.symlink_metadata() else { return Ok(()) };
        if !self.is_dry {
            let removed = if found.is_dir() { fs::remove_dir_all(&full) } else { fs::remove_file(&full) };
            removed.map_err(|error| SetupError::File(full, error))?;
        }
        self.tell(Deed("remove", "removed"), path);
        Ok(())
    }

    /// Makes a link, unless something is there.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<(), SetupError> {
        let full = self.path(path);
        if full.symlink_metadata().is_ok() {
            return Ok(());
        }
        if !self.is_dry {
            let made = fs::create_dir_all(full.parent().unwrap_or(&self.root)).and_then(|()| symlink(target, &full));
            made.map_err(|error| SetupError::File(full, error))?;
        }
        self.tell(Deed("make", "made"), path);
        Ok(())
    }

    /// Whether what is there belongs to the agent.
    pub(super) fn is_agents(&self, path: &str) -> bool {
        let ids = self.ids(Owner::Agent).ok();
        ids.zip(fs::metadata(self.path(path)).ok()).is_some_and(|((user, _), found)| found.uid() == user)
    }

    /// Gives the agent what we made as root in its directory.
    pub(super) fn hand_over(&self, path: &str) -> Result<(), SetupError> {
        if !self.may_give {
            return Ok(());
        }
        let (user, group) = self.ids(Owner::Agent)?;
        let full = self.path(path);
        let fault = |error| SetupError::File(full.clone(), error);
        for entry in fs::read_dir(&full).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let found = entry.metadata().map_err(fault)?;
            // What is not ours alone is none that we made.
            if found.uid() == 0 && found.is_file() && found.nlink() == 1 {
                lchown(entry.path(), Some(user), Some(group)).map_err(fault)?;
            }
        }
        lchown(&full, Some(user), Some(group)).map_err(fault)
    }

    fn give(&self, file: &File, owner: Owner) -> Result<(), SetupError> {
        if !self.may_give {
            return Ok(());
        }
        let (user, group) = self.ids(owner)?;
        fchown(file, Some(user), Some(group)).map_err(|error| SetupError::File(PathBuf::new(), error))
    }

    /// Runs a program of the system to its end.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<(), SetupError> {
        let line = [&[program], arguments].concat().join(" ");
        self.tell(Deed("run", "running"), &line);
        if self.is_dry {
            return Ok(());
        }
        // What it has to say of itself it says to the person.
        match Command::new(program).args(arguments).stdin(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(SetupError::Program(line, None)),
            Err(error) => Err(SetupError::Program(line, Some(error))),
        }
    }

    /// The flag that names another root to a program of systemd.
    pub(super) fn root_flag(&self) -> Option<String> {
        self.has_root.then(|| ["--root=", &self.root.to_string_lossy()].concat())
    }

    /// Where our own program is, as the unit will find it, or where it is to be put.
    ///
    /// # Errors
    /// When it is none for the machine of the root.
    pub(super) fn program(&self) -> Result<&'static str, SetupError> {
        let present = PROGRAMS.into_iter().find(|path| self.has(path));
        let ours = machine(&present.map_or(PathBuf::from(OWN), |path| self.path(path)));
        let theirs = OTHERS.into_iter().find_map(|path| machine(&self.path(path)));
        if self.has_root && ours.zip(theirs).is_some_and(|(ours, theirs)| ours != theirs) {
            return Err(SetupError::Impossible(
                "pullet is for another architecture than --root: put the one for it there as /usr/local/bin/pullet",
            ));
        }
        let [_, place] = PROGRAMS;
        Ok(present.unwrap_or(place))
    }

    /// Puts our own program where a unit sees it.
    pub(super) fn put_program(&self, path: &str) -> Result<(), SetupError> {
        if !self.has(path) {
            let bytes = fs::read(OWN).map_err(|error| SetupError::File(PathBuf::from(OWN), error))?;
            self.put(path, 0o755, Owner::Root, &bytes)?;
        }
        Ok(())
    }
}

/// For what a program is: how wide its addresses are, and the machine; none where it is no ELF.
fn machine(path: &Path) -> Option<[u8; 3]> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF").then_some([head[4], head[18], head[19]])
}

fn or_file(error: SetupError, path: &Path) -> SetupError {
    match error {
        SetupError::File(_, error) => SetupError::File(path.to_owned(), error),
        error => error,
    }
}

fn describe(path: &str, mode: u32, owner: Owner) -> String {
    let owner = match owner {
        Owner::Agent => "pullet:pullet",
        Owner::Group => "root:pullet",
        Owner::Root => "root:root",
    };
    format!("{path} ({mode:04o} {owner})")
}
