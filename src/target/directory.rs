//! The directory target: one object per file, for a node without API credentials and for a first try.
//!
//! k3s reads a directory of manifests every 15 s and applies what changed; an agent that may write there
//! needs no account at the API server. What that costs is said here, because it is not what an API does:
//!
//! - k3s calls its add-on after the file's name up to the first dot, wherever the file lies. A name is
//!   therefore made of a hash of the object's name, the same for ever and unlike anybody else's.
//! - k3s prunes an object that leaves a file and undoes nothing when a file is deleted. A delete thus
//!   empties the file; it is removed later, when k3s must have read it.
//! - k3s passes over names that begin with a dot. A file is written under such a name and renamed, so that
//!   nobody ever reads half of one.
//! - k3s applies a `Namespace` as any other object. To write one for a namespace that somebody else made
//!   would put our label onto it, which is what opens a namespace to us. So none is written: a namespace
//!   has to be there, or to be a job of its own.
//! - k3s picks a namespace for an object that names none. An object of a kind that is not known to be
//!   cluster-scoped has to name its own, or it would land where no policy looked.
//!
//! The directory is opened once, and everything is done relative to that handle and without following
//! links: whoever may swap the path or plant a link beside our files gains nothing by it.

mod stamp;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;

use super::{Applied, Deleted, NamespaceRule, Observation, Pending, Readiness, Stamp, Target, TargetError};
use crate::limits;
use crate::protocol::{CLUSTER_ID_LABEL, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Manifest, ObjectRef, group_of};
use crate::task;

/// Why nobody will ever report on what lies in a directory.
const SILENT: Readiness = Readiness::Silent("applied; nothing reports readiness here");

/// What a delete leaves until it is over: an object list that k3s reads as "none", so that it prunes.
const EMPTIED: &[u8] = b"{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[]}\n";

const EMPTIED_NOTE: &str = "the object's file is without objects now, from which k3s learns at its next scan to delete the object; the file \
     itself goes later. An object that is still there after ten minutes was deleted while k3s was not running";

/// Kinds that live outside of namespaces and that an admin may plausibly allow. No other kind may go
/// without a namespace: nobody here can ask an API server.
const CLUSTER_SCOPED: [(&str, &str); 12] = [
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("cert-manager.io", "ClusterIssuer"),
    ("networking.k8s.io", "IngressClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("ops.vworkspace.io", "Cluster"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "StorageClass"),
];

/// A directory in which each object is a file.
pub struct Directory {
    place: Arc<Place>,
    /// Held by whoever touches files. It goes along into the blocking pool, where work goes on even when
    /// nobody waits for it any more.
    turn: Arc<Mutex<()>>,
    cluster_id: String,
    settle: Duration,
    emptied: Arc<Emptied>,
}

/// Why a directory cannot be used as a target at all.
#[derive(Debug)]
pub enum DirectoryError {
    /// It could not be opened or read.
    Io(PathBuf, io::Error),
    /// Its last component is a link.
    Link(PathBuf),
    /// There is nothing.
    Missing(PathBuf),
    /// There is something else.
    NotADirectory(PathBuf),
}

impl Directory {
    /// Opens the directory and removes what a crash left of our own unfinished files. `settle` is how long
    /// an emptied file stays ([`DIRECTORY_SETTLE`](crate::limits::DIRECTORY_SETTLE)). Does file I/O.
    ///
    /// # Errors
    /// As [`DirectoryError`] lists them. Only the last component must not be a link: `/var/lib` on another
    /// disk is an admin's own affair.
    pub fn open(path: &Path, cluster_id: &str, settle: Duration) -> Result<Self, DirectoryError> {
        let place = Place::open(path)?;
        place.remove_drafts().map_err(|error| DirectoryError::Io(place.path.clone(), error))?;
        Ok(Self {
            place: Arc::new(place),
            turn: Arc::default(),
            cluster_id: cluster_id.to_owned(),
            settle,
            emptied: Arc::default(),
        })
    }

    async fn write(&self, manifest: &Manifest<'_>) -> Result<Applied, TargetError> {
        let reference = manifest.reference();
        check_scope(&reference)?;
        let labels = [(MANAGED_BY_LABEL, MANAGED_BY_VALUE), (CLUSTER_ID_LABEL, self.cluster_id.as_str())];
        let mut text = manifest.write(&labels);
        text.push(b'\n');
        let slot = Slot::of(&reference);
        self.on_disk(move |place| {
            place.holds(&slot)?;
            place.replace(&slot, &text)
        })
        .await?;
        Ok(Applied { reference, readiness: SILENT })
    }

    async fn remove(&self, object: &ObjectRef) -> Result<Deleted, TargetError> {
        check_scope(object)?;
        let slot = Slot::of(object);
        let emptied = slot.clone();
        let was_there = self
            .on_disk(move |place| {
                let is_there = place.holds(&emptied)?;
                if is_there {
                    place.replace(&emptied, EMPTIED)?;
                }
                Ok(is_there)
            })
            .await?;
        if !was_there {
            return Ok(Deleted { note: None });
        }
        self.emptied.push(slot, Instant::now() + self.settle);
        Ok(Deleted { note: Some(EMPTIED_NOTE) })
    }

    /// Removes emptied files when their time has come, those of an earlier run included.
    async fn sweep(&self) {
        match self.on_disk(|place| Ok(place.emptied())).await {
            Ok(left) => left.into_iter().for_each(|slot| self.emptied.push(slot, Instant::now() + self.settle)),
            Err(error) => tracing::warn!(%error, "the directory cannot be read; files without objects stay in it"),
        }
        loop {
            let Some((slot, due)) = self.emptied.first() else {
                self.emptied.more.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.emptied.more.notified() => continue,
            }
            self.emptied.forget(&slot);
            if let Err(error) = self.on_disk(move |place| place.remove_emptied(&slot)).await {
                tracing::warn!(%error, "a file without objects stays in the directory");
            }
        }
    }

    /// Runs `work` where it may block, one at a time and to its end, on the directory that is there now: another one may have
    /// been put in the place of the one at the start.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, TargetError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let place = Arc::clone(&self.place);
        let done = task::on_thread(move || {
            let _turn = turn;
            let place = Place::open(&place.path).map_err(|error| TargetError::Unavailable(Box::new(error)))?;
            work(&place)
        });
        done.await.unwrap_or_else(|error| Err(TargetError::Unavailable(Box::new(error))))
    }
}

impl Target for Directory {
    fn describe(&self) -> String {
        format!("directory {}", self.place.path.display())
    }

    /// The rule is not asked: whether a namespace is managed, or there at all, only an API server can tell.
    fn apply<'a>(
        &'a self,
        manifest: &'a Manifest<'a>,
        _rule: NamespaceRule,
    ) -> Pending<'a, Result<Applied, TargetError>> {
        Box::pin(self.write(manifest))
    }

    /// The file is emptied at once and goes after [`DIRECTORY_SETTLE`](crate::limits::DIRECTORY_SETTLE), if
    /// somebody observes; an object that is applied meanwhile stays.
    fn delete<'a>(&'a self, object: &'a ObjectRef, _rule: NamespaceRule) -> Pending<'a, Result<Deleted, TargetError>> {
        Box::pin(self.remove(object))
    }

    fn stamp<'a>(&'a self, object: &'a ObjectRef) -> Pending<'a, Result<Option<Stamp>, TargetError>> {
        Box::pin(self.read_stamp(object))
    }

    fn fault(&self) -> Option<String> {
        let fault = match Place::open(&self.place.path) {
            Ok(place) => place.writable().err()?.to_string(),
            Err(error) => error.to_string(),
        };
        Some(["jobs cannot be written into ", &self.describe(), ": ", &fault].concat())
    }

    /// Reports nothing; looks after the emptied files meanwhile.
    fn observe(&self, sink: mpsc::Sender<Observation>) -> Pending<'_, ()> {
        Box::pin(async move {
            tokio::select! {
                () = self.sweep() => {}
                () = sink.closed() => {}
            }
        })
    }
}

/// The files that wait to be removed, oldest first.
#[derive(Default)]
struct Emptied {
    waiting: std::sync::Mutex<VecDeque<(Slot, Instant)>>,
    more: Notify,
}

impl Emptied {
    /// What does not fit is found at the next start.
    fn push(&self, slot: Slot, due: Instant) {
        self.forget(&slot);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < limits::EMPTIED_FILES {
            waiting.push_back((slot, due));
        }
        self.more.notify_one();
    }

    fn forget(&self, slot: &Slot) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|(held, _)| held.file != slot.file);
    }

    fn first(&self) -> Option<(Slot, Instant)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }
}

fn check_scope(object: &ObjectRef) -> Result<(), TargetError> {
    let known = (group_of(&object.api_version), object.kind.as_str());
    if object.namespace.is_empty() && !CLUSTER_SCOPED.contains(&known) {
        return Err(TargetError::Invalid(format!(
            "{} is not known to be cluster-scoped, and k3s would choose a namespace by itself: set metadata.namespace",
            object.kind
        )));
    }
    Ok(())
}

/// The two names of one object's file.
#[derive(Clone)]
struct Slot {
    /// `pullet-0123456789abcdef.json`.
    file: String,
    /// `.pullet-0123456789abcdef.tmp`, while it is being written.
    draft: String,
}

impl Slot {
    /// Of 256 bits 64 are kept: two of a node's thousand objects share a name with odds of 1 to 4 × 10^13.
    /// None of the parts of a valid name has a slash, so a name that has one meets no valid object's file.
    fn of(object: &ObjectRef) -> Self {
        let name = format!("{}/{}/{}/{}", group_of(&object.api_version), object.kind, object.namespace, object.name);
        let hash = digest(&SHA256, name.as_bytes())
            .as_ref()
            .iter()
            .take(8)
            .fold(0, |hash: u64, byte| hash << 8 | u64::from(*byte));
        Self::named(&format!("{hash:016x}"))
    }

    fn named(hash: &str) -> Self {
        Self { file: format!("pullet-{hash}.json"), draft: format!(".pullet-{hash}.tmp") }
    }

    /// The object's file of this name, if it is one of ours.
    fn of_file(name: &[u8]) -> Option<Self> {
        let hash = name.strip_prefix(b"pullet-")?.strip_suffix(b".json")?;
        is_hash(hash).then(|| Self::named(&String::from_utf8_lossy(hash)))
    }

    fn is_draft(name: &[u8]) -> bool {
        name.strip_prefix(b".pullet-").and_then(|name| name.strip_suffix(b".tmp")).is_some_and(is_hash)
    }
}

fn is_hash(text: &[u8]) -> bool {
    text.len() == 16 && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The directory itself, and all that touches it.
struct Place {
    path: PathBuf,
    handle: OwnedFd,
}

impl Place {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        // Without the slash at its end: the kernel follows `link/` whatever it is told about links.
        let path: PathBuf = path.components().collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(handle) => Ok(Self { path, handle }),
            Err(Errno::NOENT) => Err(DirectoryError::Missing(path)),
            Err(Errno::NOTDIR | Errno::LOOP) if is_link(&path) => Err(DirectoryError::Link(path)),
            Err(Errno::NOTDIR) => Err(DirectoryError::NotADirectory(path)),
            Err(error) => Err(DirectoryError::Io(path, error.into())),
        }
    }

    /// As the user of this process, and the file system, have it.
    fn writable(&self) -> io::Result<()> {
        Ok(rustix::fs::accessat(&self.handle, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())?)
    }

    fn remove_drafts(&self) -> io::Result<()> {
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            if Slot::is_draft(entry.file_name().to_bytes()) {
                match rustix::fs::unlinkat(&self.handle, entry.file_name(), AtFlags::empty()) {
                    // A directory of that name is not ours; it will be refused when it is in the way.
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The files that a delete emptied and nobody removed, as far as they can be read.
    fn emptied(&self) -> Vec<Slot> {
        let Ok(entries) = Dir::read_from(&self.handle) else { return Vec::new() };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| Slot::of_file(entry.file_name().to_bytes()))
            .filter(|slot| self.holds(slot).is_ok_and(|is_there| is_there) && self.is_emptied(slot).unwrap_or(false))
            .take(limits::EMPTIED_FILES)
            .collect()
    }

    /// Whether the object's file is there. Anything but a plain file under its name is refused.
    fn holds(&self, slot: &Slot) -> Result<bool, TargetError> {
        match rustix::fs::statat(&self.handle, &slot.file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile => Ok(true),
            Ok(found) => Err(self.not_a_file(slot, FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.fault("look at", &slot.file, error.into())),
        }
    }

    /// Puts `text` in the place of the object's file: whole and durable, or not at all.
    fn replace(&self, slot: &Slot, text: &[u8]) -> Result<(), TargetError> {
        let written = self.write_draft(slot, text).and_then(|()| {
            rustix::fs::renameat(&self.handle, &slot.draft, &self.handle, &slot.file).map_err(io::Error::from)
        });
        if let Err(error) = written {
            // On a full disk the space is given back at once; what cannot be removed is removed at the next start.
            let _ = rustix::fs::unlinkat(&self.handle, &slot.draft, AtFlags::empty());
            return Err(self.fault("write", &slot.file, error));
        }
        self.sync(&slot.file)
    }

    fn write_draft(&self, slot: &Slot, text: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // An object may be a Secret; k3s reads as root.
        let mode = Mode::RUSR | Mode::WUSR;
        let created = match rustix::fs::openat(&self.handle, &slot.draft, flags, mode) {
            // Ours, from a write that could not clean up; or planted. Either way it is not written to.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.handle, &slot.draft, AtFlags::empty())?;
                rustix::fs::openat(&self.handle, &slot.draft, flags, mode)
            }
            created => created,
        };
        let mut draft = File::from(created?);
        draft.write_all(text)?;
        draft.sync_all()
    }

    /// Removes the object's file if it is still the one that a delete emptied.
    fn remove_emptied(&self, slot: &Slot) -> Result<(), TargetError> {
        if !self.holds(slot)? || !self.is_emptied(slot).map_err(|error| self.fault("read", &slot.file, error))? {
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.handle, &slot.file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.fault("remove", &slot.file, error.into())),
        }
        self.sync(&slot.file)
    }

    fn is_emptied(&self, slot: &Slot) -> io::Result<bool> {
        // Without waiting for a writer, should somebody have put a pipe there since it was looked at.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.handle, &slot.file, flags, Mode::empty())?);
        let mut text = Vec::with_capacity(EMPTIED.len() + 1);
        file.take(EMPTIED.len() as u64 + 1).read_to_end(&mut text)?;
        Ok(text == EMPTIED)
    }

    /// A rename or a removal lasts only once the directory itself is on the disk.
    fn sync(&self, file: &str) -> Result<(), TargetError> {
        rustix::fs::fsync(&self.handle).map_err(|error| self.fault("make durable", file, error.into()))
    }

    fn not_a_file(&self, slot: &Slot, found: FileType) -> TargetError {
        let found = match found {
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            _ => "neither a file nor a directory",
        };
        TargetError::Unusable(format!(
            "{} in {} is {found}, and the agent writes only to plain files of its own: remove it",
            slot.file,
            self.path.display()
        ))
    }

    fn fault(&self, action: &'static str, file: &str, source: io::Error) -> TargetError {
        TargetError::Unavailable(Box::new(FileFault { action, path: self.path.join(file), source }))
    }
}

fn is_link(path: &Path) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
}

/// Something that could not be done with a file now, and may be later.
#[derive(Debug)]
struct FileFault {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.action, self.path.display())?;
        f.write_str(match self.source.kind() {
            io::ErrorKind::NotFound => ", the directory is gone (make it again)",
            io::ErrorKind::PermissionDenied => " (give the agent's user the directory)",
            io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull => " (free some space on that file system)",
            io::ErrorKind::ReadOnlyFilesystem => " (mount it read-write; an SD card that fails turns read-only)",
            _ => "",
        })
    }
}

impl StdError for FileFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, _) => write!(f, "the directory {} cannot be opened", path.display()),
            Self::Link(path) => {
                write!(
                    f,
                    "{} is a link, which whoever may change it could point elsewhere: name the directory itself",
                    path.display()
                )
            }
            Self::Missing(path) => write!(f, "there is no directory {}: make it first", path.display()),
            Self::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
        }
    }
}

impl StdError for DirectoryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CLUSTER_SCOPED, Slot, check_scope};
    use crate::protocol::ObjectRef;

    fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectRef {
        ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..ObjectRef::default()
        }
    }

    #[test]
    fn a_file_is_named_by_the_hash_of_the_object() {
        // printf '/ConfigMap/clinic/settings' | sha256sum
        let slot = Slot::of(&object("v1", "ConfigMap", "clinic", "settings"));
        assert_eq!(slot.file, "pullet-a7ddac8b3897aff5.json");
        assert_eq!(slot.draft, ".pullet-a7ddac8b3897aff5.tmp");
    }

    #[test]
    fn the_version_of_an_api_does_not_move_the_file() {
        let old = Slot::of(&object("apps.vworkspace.io/v1alpha1", "ApplicationInstance", "clinic", "wiki"));
        let new = Slot::of(&object("apps.vworkspace.io/v1", "ApplicationInstance", "clinic", "wiki"));
        assert_eq!(old.file, new.file);
    }

    #[test]
    fn only_our_own_unfinished_files_count_as_such() {
        assert!(Slot::is_draft(b".pullet-0123456789abcdef.tmp"));
        for name in [
            &b".pullet-0123456789abcde.tmp"[..],
            b".pullet-0123456789abcdef0.tmp",
            b".pullet-0123456789ABCDEF.tmp",
            b".pullet-0123456789abcdeg.tmp",
            b".pullet-0123456789abcdef.json",
            b"pullet-0123456789abcdef.tmp",
            b".pullet-.tmp",
            b".tmp",
            b"",
        ] {
            assert!(!Slot::is_draft(name), "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn only_kinds_known_to_be_cluster_scoped_go_without_a_namespace() {
        assert!(check_scope(&object("v1", "ConfigMap", "", "a")).is_err());
        assert!(check_scope(&object("v1", "ConfigMap", "clinic", "a")).is_ok());
        assert!(check_scope(&object("v1", "PersistentVolume", "", "a")).is_ok());
        assert!(check_scope(&object("example.org/v1", "PersistentVolume", "", "a")).is_err());
        assert!(CLUSTER_SCOPED.is_sorted());
    }
}
