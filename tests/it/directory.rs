//! The directory target, on real directories.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pullet::protocol::{Manifest, ObjectRef};
use pullet::target::directory::{Directory, DirectoryError};
use pullet::target::{NamespaceRule, Observation, Readiness, Target as _, TargetError};
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Long enough for a busy machine to do something meanwhile.
const SETTLE: Duration = Duration::from_secs(3);

fn target(path: &Path) -> Directory {
    Directory::open(path, "clinic-7", SETTLE).unwrap()
}

fn object(api_version: &str, kind: &str, name: &str) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: "clinic".to_owned(),
        name: name.to_owned(),
        ..ObjectRef::default()
    }
}

fn config_map(name: &str) -> ObjectRef {
    object("v1", "ConfigMap", name)
}

async fn apply(target: &Directory, object: &ObjectRef, note: &str) -> Result<(), TargetError> {
    let text = serde_json::json!({
        "apiVersion": object.api_version,
        "kind": object.kind,
        "metadata": {"name": object.name, "namespace": object.namespace, "labels": {"mine": "yes"}},
        "data": {"note": note},
    });
    let text = RawValue::from_string(text.to_string()).unwrap();
    let manifest = Manifest::parse(&text, None).unwrap();
    let applied = target.apply(&manifest, NamespaceRule::Managed).await?;
    assert_eq!(applied.reference, *object);
    assert!(matches!(applied.readiness, Readiness::Silent(_)));
    Ok(())
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn only_file(path: &Path) -> PathBuf {
    let files = files(path);
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn an_object_becomes_a_closed_file_with_our_labels() {
    let dir = TempDir::new().unwrap();
    apply(&target(dir.path()), &config_map("settings"), "a").await.unwrap();
    let file = only_file(dir.path());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        read(&file),
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "settings",
                "namespace": "clinic",
                "labels": {
                    "app.vworkspace.io/cluster-id": "clinic-7",
                    "app.vworkspace.io/managed-by": "control-plane",
                    "mine": "yes",
                },
            },
            "data": {"note": "a"},
        })
    );
}

#[tokio::test]
async fn a_reader_never_sees_half_a_file() {
    let dir = TempDir::new().unwrap();
    let target = target(dir.path());
    let (short, long) = ("s".to_owned(), "l".repeat(200_000));
    apply(&target, &config_map("settings"), &short).await.unwrap();
    let file = only_file(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (stop, directory) = (Arc::clone(&stop), dir.path().to_owned());
        move || {
            let mut lengths = BTreeSet::new();
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                lengths.insert(read(&file)["data"]["note"].as_str().unwrap().len());
                // What k3s would read: all that does not begin with a dot.
                let seen: Vec<_> = files(&directory)
                    .into_iter()
                    .filter(|path| !path.file_name().unwrap().as_bytes().starts_with(b"."))
                    .collect();
                assert_eq!(seen, std::slice::from_ref(&file));
                reads += 1;
            }
            (lengths, reads)
        }
    });
    for round in 0..200 {
        apply(&target, &config_map("settings"), if round % 2 == 0 { &long } else { &short }).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (lengths, reads) = reader.join().unwrap();
    assert_eq!(lengths, BTreeSet::from([1, 200_000]), "{reads} reads");
    assert!(reads > 10, "{reads} reads are no test");
}

#[tokio::test]
async fn no_name_leaves_the_directory() {
    let outer = TempDir::new().unwrap();
    let inner = outer.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    let target = Directory::open(&inner, "clinic-7", Duration::from_millis(1)).unwrap();
    // No manifest has such a name; the directory does not rely on it.
    let names = ["../../x", "/etc/passwd", "..", ".", "a\0b", "a\nb", &"x".repeat(10_000), "ä/../ö", ".hidden.json"];
    for (count, name) in names.iter().enumerate() {
        let text = RawValue::from_string(
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "clinic"}})
                .to_string(),
        )
        .unwrap();
        let mut manifest = Manifest::parse(&text, None).unwrap();
        (*name).clone_into(&mut manifest.name);
        target.apply(&manifest, NamespaceRule::Managed).await.unwrap();
        assert_eq!(files(&inner).len(), count + 1, "{name:?}");
    }
    for file in files(&inner) {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.len(), "pullet-0123456789abcdef.json".len());
        assert!(name.starts_with("pullet-"), "{name}");
    }
    assert_eq!(only_file(outer.path()), inner);
    for name in names {
        target.delete(&config_map(name), NamespaceRule::Managed).await.unwrap();
    }
    assert!(files(&inner).iter().all(|file| is_emptied(file)));
}

#[tokio::test]
async fn one_name_in_two_groups_kinds_or_namespaces_is_several_files() {
    let dir = TempDir::new().unwrap();
    let target = target(dir.path());
    apply(&target, &object("apps/v1", "Deployment", "web"), "a").await.unwrap();
    apply(&target, &object("example.org/v1", "Deployment", "web"), "a").await.unwrap();
    apply(&target, &object("apps/v1", "StatefulSet", "web"), "a").await.unwrap();
    let elsewhere = ObjectRef { namespace: "school".to_owned(), ..object("apps/v1", "Deployment", "web") };
    apply(&target, &elsewhere, "a").await.unwrap();
    assert_eq!(files(dir.path()).len(), 4);
    target.delete(&object("apps/v1", "Deployment", "web"), NamespaceRule::Managed).await.unwrap();
    assert_eq!(files(dir.path()).iter().filter(|file| is_emptied(file)).count(), 1);
}

#[tokio::test]
async fn an_object_that_names_no_namespace_is_refused() {
    let dir = TempDir::new().unwrap();
    let target = target(dir.path());
    let stray = ObjectRef { namespace: String::new(), ..config_map("settings") };
    assert!(matches!(apply(&target, &stray, "a").await, Err(TargetError::Invalid(_))));
    assert!(matches!(target.delete(&stray, NamespaceRule::Listed).await, Err(TargetError::Invalid(_))));
    let namespace = ObjectRef { namespace: String::new(), ..object("v1", "Namespace", "clinic") };
    apply(&target, &namespace, "a").await.unwrap();
    assert_eq!(files(dir.path()).len(), 1, "and no namespace is made besides");
}

#[tokio::test]
async fn a_delete_empties_the_file_at_once_and_it_is_removed_later() {
    let dir = TempDir::new().unwrap();
    let target = Arc::new(target(dir.path()));
    let sweeper = observe(&target);
    let object = config_map("settings");
    apply(&target, &object, "a").await.unwrap();
    apply(&target, &config_map("other"), "b").await.unwrap();
    let started = Instant::now();
    let deleted = target.delete(&object, NamespaceRule::Managed).await.unwrap();
    assert!(deleted.note.unwrap().contains("without objects"));
    let emptied: Vec<PathBuf> = files(dir.path()).into_iter().filter(|file| is_emptied(file)).collect();
    assert_eq!(emptied.len(), 1, "a delete does not wait until it is removed");
    until(|| !emptied[0].exists()).await;
    assert!(started.elapsed() >= SETTLE);
    assert_eq!(files(dir.path()).len(), 1, "the other object stays");
    drop(sweeper);
}

#[tokio::test]
async fn a_delete_of_what_is_not_there_is_done_at_once() {
    let dir = TempDir::new().unwrap();
    let target = Directory::open(dir.path(), "clinic-7", Duration::from_hours(1)).unwrap();
    let deleted = target.delete(&config_map("settings"), NamespaceRule::Managed).await.unwrap();
    assert_eq!(deleted.note, None);
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn an_object_applied_after_its_delete_stays() {
    let dir = TempDir::new().unwrap();
    let target = Arc::new(target(dir.path()));
    let _sweeper = observe(&target);
    let object = config_map("settings");
    apply(&target, &object, "old").await.unwrap();
    apply(&target, &config_map("gone"), "b").await.unwrap();
    target.delete(&object, NamespaceRule::Managed).await.unwrap();
    apply(&target, &object, "new").await.unwrap();
    // This one is behind the other in the queue: when it is removed, the other's time has come, too.
    target.delete(&config_map("gone"), NamespaceRule::Managed).await.unwrap();
    until(|| files(dir.path()).len() == 1).await;
    assert_eq!(read(&only_file(dir.path()))["data"]["note"], "new");
}

#[tokio::test]
async fn what_an_earlier_run_emptied_is_removed_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    {
        let target = target(dir.path());
        apply(&target, &config_map("settings"), "a").await.unwrap();
        apply(&target, &config_map("other"), "b").await.unwrap();
        target.delete(&config_map("settings"), NamespaceRule::Managed).await.unwrap();
    }
    fs::write(dir.path().join("foreign.json"), "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[]}\n").unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    let _sweeper = observe(&Arc::new(target(dir.path())));
    until(|| files(dir.path()).len() == 2).await;
    assert!(dir.path().join("foreign.json").exists(), "only our own files are removed");
}

/// Has the target look after its files until the receiver is dropped.
fn observe(target: &Arc<Directory>) -> mpsc::Receiver<Observation> {
    let (sink, observations) = mpsc::channel(1);
    let target = Arc::clone(target);
    tokio::spawn(async move { target.observe(sink).await });
    observations
}

fn is_emptied(file: &Path) -> bool {
    read(file) == serde_json::json!({"apiVersion": "v1", "kind": "List", "items": []})
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_link_or_a_directory_in_the_place_of_a_file_is_refused() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    let target = target(&dir);
    let object = config_map("settings");
    apply(&target, &object, "a").await.unwrap();
    let file = only_file(&dir);
    let precious = outer.path().join("precious");
    fs::write(&precious, "keep").unwrap();

    for what in ["a symbolic link", "a directory", "neither a file nor a directory"] {
        fs::remove_file(&file).unwrap_or_else(|_| fs::remove_dir(&file).unwrap());
        match what {
            "a symbolic link" => symlink(&precious, &file).unwrap(),
            "a directory" => fs::create_dir(&file).unwrap(),
            _ => drop(UnixListener::bind(&file).unwrap()),
        }
        for refused in
            [apply(&target, &object, "b").await, target.delete(&object, NamespaceRule::Managed).await.map(drop)]
        {
            let Err(TargetError::Unusable(message)) = refused else { panic!("{refused:?}") };
            assert!(message.contains(what), "{message}");
            assert!(message.contains("remove it"), "{message}");
        }
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep");
}

#[tokio::test]
async fn a_link_in_the_place_of_an_unfinished_file_is_not_written_through() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    let target = target(&dir);
    let object = config_map("settings");
    apply(&target, &object, "a").await.unwrap();
    let file = only_file(&dir);
    let hash = file.file_stem().unwrap().to_str().unwrap().strip_prefix("pullet-").unwrap().to_owned();
    let precious = outer.path().join("precious");
    fs::write(&precious, "keep").unwrap();
    symlink(&precious, dir.join(format!(".pullet-{hash}.tmp"))).unwrap();
    apply(&target, &object, "b").await.unwrap();
    assert_eq!(read(&only_file(&dir))["data"]["note"], "b");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep");
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let outer = TempDir::new().unwrap();
    let real = outer.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = outer.path().join("link");
    symlink(&real, &link).unwrap();
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    let open = |path: &Path| Directory::open(path, "clinic-7", SETTLE).err().unwrap();
    assert!(matches!(open(&link), DirectoryError::Link(_)));
    assert!(matches!(open(&link.join("")), DirectoryError::Link(_)), "a slash at the end follows no link");
    assert!(matches!(open(&link.join(".")), DirectoryError::Link(_)));
    assert!(matches!(open(&file), DirectoryError::NotADirectory(_)));
    assert!(matches!(open(&outer.path().join("none")), DirectoryError::Missing(_)));
    assert!(matches!(open(Path::new("")), DirectoryError::Missing(_)));
}

#[tokio::test]
async fn a_directory_that_is_swapped_for_a_link_is_not_followed() {
    let outer = TempDir::new().unwrap();
    let (dir, moved, elsewhere) =
        (outer.path().join("manifests"), outer.path().join("moved"), outer.path().join("elsewhere"));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let target = target(&dir);
    fs::rename(&dir, &moved).unwrap();
    symlink(&elsewhere, &dir).unwrap();
    let Err(TargetError::Unavailable(source)) = apply(&target, &config_map("settings"), "a").await else { panic!() };
    assert!(source.to_string().contains("is a link"), "{source}");
    assert!(target.fault().unwrap().contains("is a link"));
    assert!(files(&moved).is_empty() && files(&elsewhere).is_empty());
}

#[tokio::test]
async fn a_directory_that_is_gone_is_unavailable() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    let target = target(&dir);
    fs::remove_dir(&dir).unwrap();
    let Err(TargetError::Unavailable(source)) = apply(&target, &config_map("settings"), "a").await else { panic!() };
    assert!(source.to_string().contains("there is no directory"), "{source}");
}

#[test]
fn what_a_crash_left_unfinished_is_removed_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let kept = [".pullet-0123456789abcdef.tmp.bak", ".pullet-short.tmp", "a.yaml", "pullet-0123456789abcdef.json"];
    for name in kept {
        fs::write(dir.path().join(name), "half").unwrap();
    }
    fs::write(dir.path().join(".pullet-0123456789abcdef.tmp"), "half").unwrap();
    symlink("a.yaml", dir.path().join(".pullet-fedcba9876543210.tmp")).unwrap();
    let nested = dir.path().join(".pullet-00000000000000aa.tmp");
    fs::create_dir(&nested).unwrap();
    target(dir.path());
    let mut expected: Vec<PathBuf> = kept.iter().map(|name| dir.path().join(name)).collect();
    expected.push(nested);
    expected.sort();
    assert_eq!(files(dir.path()), expected);
}

#[tokio::test]
async fn nothing_is_observed_and_the_observer_ends_with_its_receiver() {
    let dir = TempDir::new().unwrap();
    let target = target(dir.path());
    let (sink, observations) = mpsc::channel(1);
    let observer = target.observe(sink);
    drop(observations);
    tokio::time::timeout(Duration::from_secs(30), observer).await.unwrap();
}

/// A small file system of its own, unmounted when dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Self {
        let tmpfs = Self(TempDir::new().unwrap());
        tmpfs.run("mount", &["-t", "tmpfs", "-o", options, "pullet-test"]);
        tmpfs
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(self.0.path()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "needs a small disk: root, to mount a file system of 64 KiB"]
async fn a_full_or_read_only_disk_is_said_and_costs_no_file() {
    let disk = Tmpfs::mount("size=64k");
    let dir = disk.0.path();
    let target = target(dir);
    let object = config_map("settings");
    apply(&target, &object, "small").await.unwrap();

    let Err(TargetError::Unavailable(source)) = apply(&target, &object, &"x".repeat(200_000)).await else { panic!() };
    assert!(source.to_string().contains("free some space"), "{source}");
    assert!(source.source().is_some());
    assert_eq!(read(&only_file(dir))["data"]["note"], "small", "the old file stays and no other");
    apply(&target, &object, "fits").await.unwrap();

    disk.run("mount", &["-o", "remount,ro"]);
    for refused in [apply(&target, &object, "b").await, target.delete(&object, NamespaceRule::Managed).await.map(drop)]
    {
        let Err(TargetError::Unavailable(source)) = refused else { panic!("{refused:?}") };
        assert!(source.to_string().contains("mount it read-write"), "{source}");
    }
    assert_eq!(read(&only_file(dir))["data"]["note"], "fits");
}
