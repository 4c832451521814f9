//! Which machine this is: a credential works on the one it was stored on, so that of two nodes with copies of one card
//! only the first acts.
//!
//! Two marks are kept, each as a keyed hash: `/etc/machine-id`, and the serial number of the board where it has one (a
//! Raspberry Pi). What may change, and what it means:
//!
//! | serial | machine id | |
//! |---|---|---|
//! | the same | any | this machine; a new machine id (a system that was set up anew) is noted |
//! | another | any | another machine: a cloned card, or a card that moved to another board |
//! | not known then or now | the same | this machine |
//! | not known then or now | another | another machine |
//! | not known then or now | not known then or now | nobody can tell: this machine |
//!
//! The last row is a container without the host's machine id. A card that is cloned on machines without a serial number
//! carries its machine id along, and is not noticed here. It is protection from an accident, not from a thief: who
//! copies a card can copy what the marks are made of.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ring::hmac;

use crate::limits;
use crate::trust::base64url;
use crate::trust::identity::SecretBytes;
use crate::trust::mac::hmac_sha256;

/// Names another root than `/` to look below: a container that sees the host's files elsewhere, a test.
const ROOT: &str = "PULLET_MACHINE_ROOT";

/// What tells this machine from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    id: Option<String>,
    serial: Option<String>,
}

/// The marks of the machine that a credential belongs to, each the first 16 bytes of a keyed hash in base64url.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Of the machine id.
    pub id: Option<String>,
    /// Of the board's serial number.
    pub serial: Option<String>,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resemblance {
    /// It is another machine.
    Another,
    /// It is the machine, though not all marks are those that were kept.
    Changed,
    /// It is the machine.
    Same,
    /// Nothing is known then and now.
    Unknown,
}

impl Machine {
    /// Looks where the environment says, or below `/`.
    #[must_use]
    pub fn find() -> Self {
        Self::below(&std::env::var_os(ROOT).map_or_else(|| PathBuf::from("/"), PathBuf::from))
    }

    /// Looks below a root.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let id = read(&root.join("etc/machine-id")).and_then(|text| meaningful(&text));
        let serial = read(&root.join("proc/device-tree/serial-number"))
            .and_then(|text| meaningful(&text))
            .or_else(|| read(&root.join("proc/cpuinfo")).and_then(|text| serial_of(&text)));
        Self { id, serial }
    }

    /// The marks under a key.
    #[must_use]
    pub fn bind(&self, key: &SecretBytes) -> Binding {
        let mark = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| mark(&hmac_sha256(key.as_slice(), format!("{name}\n{value}").as_bytes())))
        };
        Binding { id: mark("machine-id", &self.id), serial: mark("serial", &self.serial) }
    }
}

impl Binding {
    /// Compares what was kept with what is.
    #[must_use]
    pub fn compare(&self, now: &Self) -> Resemblance {
        let pair = |kept: &Option<String>, now: &Option<String>| kept.as_ref().zip(now.as_ref()).map(|(a, b)| a == b);
        match (pair(&self.serial, &now.serial), pair(&self.id, &now.id)) {
            (Some(false), _) | (None, Some(false)) => Resemblance::Another,
            (None, None) => Resemblance::Unknown,
            (Some(true), _) | (None, Some(true)) if self == now => Resemblance::Same,
            (Some(true), _) | (None, Some(true)) => Resemblance::Changed,
        }
    }

    /// What is kept from now on: nothing that was known is forgotten because it cannot be seen today.
    #[must_use]
    pub fn renewed(&self, now: Self) -> Self {
        Self { id: now.id.or_else(|| self.id.clone()), serial: now.serial.or_else(|| self.serial.clone()) }
    }
}

fn mark(tag: &hmac::Tag) -> String {
    base64url::encode(tag.as_ref().get(..16).unwrap_or_default())
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limits::MACHINE_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// None for an id that is not set yet (`uninitialized`, machine-id(5)), and for a serial number of zeros, which boards
/// have that were never given one.
fn meaningful(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_ascii_lowercase();
    let says_nothing = text == "uninitialized" || text.bytes().all(|byte| byte == b'0') || text.len() > 256;
    (!says_nothing).then_some(text)
}

/// `Serial : 10000000abcdef01`, as the kernel of a Raspberry Pi says it.
fn serial_of(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().rev().find(|line| line.starts_with("Serial"))?;
    meaningful(line.split_once(':')?.1)
}

#[cfg(test)]
mod tests {
    use super::{Machine, Resemblance};
    use crate::trust::identity::SecretBytes;
    use std::path::Path;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn machine(id: Option<&str>, serial: Option<&str>) -> Machine {
        Machine { id: id.map(str::to_owned), serial: serial.map(str::to_owned) }
    }

    #[test]
    fn it_is_told_by_its_id_and_its_serial_number() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Machine::below(root.path()), machine(None, None));
        write(root.path(), "etc/machine-id", "0123abcd\n");
        write(root.path(), "proc/cpuinfo", "processor\t: 0\nSerial\t\t: 10000000ABCD\nModel\t: Raspberry Pi\n");
        assert_eq!(Machine::below(root.path()), machine(Some("0123abcd"), Some("10000000abcd")));
        write(root.path(), "proc/device-tree/serial-number", "10000000ffff\0");
        assert_eq!(Machine::below(root.path()), machine(Some("0123abcd"), Some("10000000ffff")));
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        let root = tempfile::tempdir().unwrap();
        for (id, cpuinfo) in [
            ("", "Serial"),
            ("uninitialized\n", "Serial\t: 0000000000000000\n"),
            ("\n", "processor : 0"),
            (&"x".repeat(257), "Serial :"),
        ] {
            write(root.path(), "etc/machine-id", id);
            write(root.path(), "proc/cpuinfo", cpuinfo);
            assert_eq!(Machine::below(root.path()), machine(None, None), "{id} {cpuinfo}");
        }
    }

    #[test]
    fn the_table_holds() {
        use Resemblance::{Another, Changed, Same, Unknown};
        let key = SecretBytes::new([7; 32]);
        for (kept, now, expected) in [
            ((Some("a"), Some("1")), (Some("a"), Some("1")), Same),
            ((Some("a"), Some("1")), (Some("b"), Some("1")), Changed),
            ((Some("a"), Some("1")), (None, Some("1")), Changed),
            ((Some("a"), Some("1")), (Some("a"), Some("2")), Another),
            ((Some("a"), Some("1")), (None, Some("2")), Another),
            ((Some("a"), Some("1")), (Some("a"), None), Changed),
            ((Some("a"), None), (Some("a"), None), Same),
            ((Some("a"), None), (Some("a"), Some("1")), Changed),
            ((Some("a"), None), (Some("b"), None), Another),
            ((Some("a"), Some("1")), (Some("b"), None), Another),
            ((Some("a"), None), (None, Some("1")), Unknown),
            ((None, None), (Some("a"), Some("1")), Unknown),
            ((Some("a"), Some("1")), (None, None), Unknown),
        ] {
            let (kept, now) = (machine(kept.0, kept.1).bind(&key), machine(now.0, now.1).bind(&key));
            assert_eq!(kept.compare(&now), expected, "{kept:?} {now:?}");
            let renewed = kept.renewed(now.clone());
            assert!(renewed.id.is_some() == (kept.id.is_some() || now.id.is_some()), "nothing is forgotten");
        }
    }

    #[test]
    fn the_marks_show_neither_the_id_nor_that_two_nodes_share_it() {
        let machine = machine(Some("0123abcd"), None);
        let (one, other) = (machine.bind(&SecretBytes::new([1; 32])), machine.bind(&SecretBytes::new([2; 32])));
        assert_ne!(one.id, other.id);
        assert!(!one.id.unwrap().contains("0123abcd"));
    }
}
