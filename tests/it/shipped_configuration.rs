//! The configuration that packages bring: nothing is on, everything is in it, and each line works once its # is taken away.

use std::collections::BTreeSet;
use std::fs;

use pullet::config::{KEYS, Settings};

const TEXT: &str = include_str!("../../cross/pullet.toml");

/// What the Debian package puts as /etc/pullet/pullet.toml.
const CONFFILE: &str = include_str!("../../cross/debian/conffile.toml");

fn settings(text: &str) -> Result<Settings, String> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("pullet.toml");
    fs::write(&file, text).unwrap();
    Settings { config: Some(file), ..Settings::default() }.with_file().map_err(|error| error.to_string())
}

/// The keys that a line could turn on: `#key = …`.
fn offered() -> Vec<&'static str> {
    let lines = TEXT.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect()
}

#[test]
fn nothing_is_on_in_the_shipped_configuration() {
    assert!(TEXT.lines().all(|line| line.is_empty() || line.starts_with('#')));
    let read = settings(TEXT).unwrap();
    assert!(read.endpoint.is_none() && read.target.is_none() && read.state_dir.is_none());
}

#[test]
fn each_setting_is_in_the_shipped_configuration_once() {
    let offered = offered();
    // That one is in no build of a package.
    let keys: BTreeSet<_> = KEYS.into_iter().filter(|key| *key != "webhook_listen").collect();
    assert_eq!(offered.len(), keys.len());
    assert_eq!(offered.into_iter().collect::<BTreeSet<_>>(), keys);
}

#[test]
fn each_line_of_the_shipped_configuration_is_understood_without_its_hash() {
    for key in offered() {
        let line = TEXT.lines().find(|line| line.starts_with(&format!("#{key} = "))).unwrap();
        if let Err(error) = settings(&line[1..]) {
            panic!("{line}: {error}");
        }
    }
}

/// dpkg asks about a configuration that was changed by a person and by the package, and on a node that nobody is at the
/// upgrade would stop there. A new setting belongs into cross/pullet.toml.
#[test]
fn the_configuration_that_a_package_leaves_to_the_person_is_the_same_in_all_versions() {
    let sum = ring::digest::digest(&ring::digest::SHA256, CONFFILE.as_bytes());
    let sum = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(sum, "2d4be5cda38d2830c80dbaf1eaddb7c53966f116b38c252a526717368e033aec");
    let read = settings(CONFFILE).unwrap();
    assert!(read.endpoint.is_none() && read.target.is_none() && read.state_dir.is_none());
    let opened = settings(&CONFFILE.replace("\n#endpoint", "\nendpoint")).unwrap();
    assert_eq!(opened.endpoint.as_deref(), Some("https://control.example.org"));
}
