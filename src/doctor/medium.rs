//! What the state directory lies on: a card, a disk, memory, another machine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Check, Desk, Verdict, read};

/// File systems of other machines.
const REMOTE: [&str; 10] =
    ["9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "nfs", "nfs4", "smb3", "virtiofs"];

/// File systems that are gone with the power.
const MEMORY: [&str; 2] = ["ramfs", "tmpfs"];

pub(super) fn examine(path: &Path, desk: &Desk) {
    const KEEP: &str = "put state_dir on a disk, a card or a volume of this node that stays";
    let check = Check::Medium;
    let Some(device) = fs::metadata(path).ok().map(|found| found.dev()) else {
        return desk.skip_because(&[check], Check::State);
    };
    let number = [&rustix::fs::major(device).to_string(), ":", &rustix::fs::minor(device).to_string()].concat();
    let table = read("/proc/self/mountinfo").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some((kind, source)) = mounted(&table, &number, &path) else {
        return desk.skip(check, &["the kernel does not tell what it lies on"]);
    };
    let risk = match kind {
        _ if MEMORY.contains(&kind) => "in memory: gone with the next boot",
        "overlay" => "on an overlay: gone with the container, or with the next boot",
        _ if REMOTE.contains(&kind) => "on another machine: nothing is kept without the network",
        _ => {
            let block = fs::canonicalize(["/sys/dev/block/", &number].concat()).unwrap_or_default();
            let (name, verdict, mend) = describe(&block);
            return desk.say(check, verdict, &[name, " (", kind, " on ", source, ")"], mend);
        }
    };
    desk.warn(check, &[risk, " (", kind, ")"], KEEP);
}

/// Kind and source of the file system that holds a path: of those on its device the one that is mounted nearest to it.
fn mounted<'a>(table: &'a str, device: &str, path: &Path) -> Option<(&'a str, &'a str)> {
    let mut found: Option<(usize, &str, &str)> = None;
    for line in table.lines() {
        // proc_pid_mountinfo(5): what belongs to the mount stands before the dash, what belongs to the file system behind it.
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ').skip(2);
        let (Some(number), Some(point)) = (mount.next(), mount.nth(1)) else { continue };
        let mut file_system = file_system.split(' ');
        let (Some(kind), Some(source)) = (file_system.next(), file_system.next()) else { continue };
        let point = point.replace("\\040", " ");
        // Of btrfs, the number in the table is another one than that of its files.
        let is_candidate = (number == device || kind == "btrfs") && path.starts_with(&point);
        if is_candidate && found.is_none_or(|(length, ..)| point.len() >= length) {
            found = Some((point.len(), kind, source));
        }
    }
    found.map(|(_, kind, source)| (kind, source))
}

/// What a block device is, by where it hangs in `/sys`.
fn describe(block: &Path) -> (&'static str, Verdict, &'static str) {
    let Some(disk) = block.ancestors().find(|place| place.join("queue").exists()) else {
        return ("no disk of its own", Verdict::Ok, "");
    };
    let text = |name: &str| disk.join(name).to_str().and_then(read).unwrap_or_default();
    let kind = text("device/type");
    // JEDEC 84-B50, PRE_EOL_INFO: 1 is normal, 2 and 3 are not.
    if ["0x02", "0x03"].contains(&text("device/pre_eol_info").trim()) {
        return ("an eMMC that is worn out", Verdict::Warning, "replace it before it turns read-only");
    }
    match kind.trim() {
        "SD" => ("an SD card", Verdict::Ok, ""),
        "MMC" => ("an eMMC", Verdict::Ok, ""),
        _ if text("removable").trim() == "1" => ("a disk that can be taken out", Verdict::Note, "see that it stays in"),
        _ => ("a disk", Verdict::Ok, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::{describe, mounted};
    use crate::doctor::Verdict;
    use std::fs;
    use std::path::Path;

    const TABLE: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        31 27 179:2 / /var/lib rw,relatime shared:1 - ext4 /dev/mmcblk0p2 rw\n\
        32 31 0:44 / /var/lib/pullet rw - tmpfs tmpfs rw\n\
        33 31 0:45 / /var/lib/my\\040disk rw - btrfs /dev/sda rw\n\
        34 27 254:0 / /mnt rw\n";

    #[test]
    fn it_is_the_file_system_that_is_mounted_nearest() {
        let at = |device: &str, path: &str| mounted(TABLE, device, Path::new(path));
        assert_eq!(at("0:44", "/var/lib/pullet"), Some(("tmpfs", "tmpfs")));
        assert_eq!(at("179:2", "/var/lib/pullets"), Some(("ext4", "/dev/mmcblk0p2")));
        assert_eq!(at("254:0", "/srv"), Some(("ext4", "/dev/vda")));
        assert_eq!(at("0:99", "/var/lib/my disk/state"), Some(("btrfs", "/dev/sda")));
        assert_eq!(at("0:99", "/srv"), None);
        for end in 0..TABLE.len() {
            let _ = mounted(&TABLE[..end], "0:44", Path::new("/var/lib/pullet"));
        }
    }

    #[test]
    fn a_card_is_told_from_a_disk_and_one_that_is_worn_out_from_one_that_is_not() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("mmcblk0");
        let partition = disk.join("mmcblk0p2");
        for directory in [&partition, &disk.join("queue"), &disk.join("device")] {
            fs::create_dir_all(directory).unwrap();
        }
        let set = |name: &str, text: &str| fs::write(disk.join(name), text).unwrap();
        assert_eq!(describe(&partition).0, "a disk");
        set("removable", "1\n");
        assert_eq!(describe(&partition).1, Verdict::Note);
        set("device/type", "SD\n");
        assert!(describe(&partition).0 == "an SD card");
        set("device/type", "MMC\n");
        set("device/pre_eol_info", "0x01\n");
        assert!(describe(&partition).0 == "an eMMC");
        set("device/pre_eol_info", "0x02\n");
        assert_eq!(describe(&partition).1, Verdict::Warning);
        assert_eq!(describe(Path::new("/nonexistent/sda1")).1, Verdict::Ok);
    }
}
