//! The machine, and the agent that runs on it.

use std::path::Path;

use super::{Check, Desk, Patient, Verdict, read};
use crate::cli;
use crate::clock;
use crate::limits;

pub(super) fn examine(patient: &Patient, desk: &Desk) {
    examine_agent(patient, desk);
    examine_memory(patient, desk);
    let kernel = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let built = Built::OURS;
    let (verdict, seen, mend) = judge_machine(built, &text(kernel.machine()), &text(kernel.release()));
    desk.say(Check::Machine, verdict, seen, mend);
}

fn examine_agent(patient: &Patient, desk: &Desk) {
    const START: &str = "systemctl start pullet; if it does not stay: journalctl -u pullet (in a cluster: kubectl -n vworkspace-system \
                         logs deployment/pullet)";
    match &patient.agent {
        Ok(status) => match cli::status_fault(status, clock::unix_seconds()) {
            None => {
                let rss = status.memory.rss_kb;
                desk.ok(Check::Agent, format!("process {}, pullet {}, connected; {rss} kB of memory", status.pid, status.agent));
            }
            Some(fault) => desk.say(Check::Agent, Verdict::Warning, fault, "see the checks above; pullet status shows the rest"),
        },
        Err(why) => match holder_of_lock(&patient.config.state_dir) {
            Some(pid) => {
                let seen = format!("process {pid} uses the state directory and writes no status that can be read here ({why})");
                desk.say(Check::Agent, Verdict::Note, seen, "give its --status-file, or the --config it runs with");
            }
            None => desk.say(Check::Agent, Verdict::Warning, why.as_str(), START),
        },
    }
}

/// Who holds the lock of the state directory, as the kernel's table has it: to try it would hold it.
fn holder_of_lock(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(directory).ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    let place = format!(" {major:02x}:{minor:02x}:{} ", found.ino());
    let table = read("/proc/locks")?;
    let line = table.lines().find(|line| line.contains("FLOCK") && line.contains(&place))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

fn examine_memory(patient: &Patient, desk: &Desk) {
    // Of the agent where it runs: this command may have another one.
    let pid = patient.agent.as_ref().map_or_else(|_| "self".to_owned(), |status| status.pid.to_string());
    let groups = read(&["/proc/", &pid, "/cgroup"].concat()).unwrap_or_default();
    let limit = memory_limit(&groups, Path::new("/sys/fs/cgroup"));
    let free = read("/proc/meminfo").as_deref().and_then(available);
    let wanted = limits::doctor::MEMORY_BYTES;
    let whose = if pid == "self" { "this command" } else { "the agent" };
    let group = limit.map_or_else(|| format!("no limit on {whose}"), |limit| format!("{} kB for {whose}", limit / 1024));
    let room = free.map_or_else(String::new, |free| format!("; {} kB free", free / 1024));
    let seen = [group, room].concat();
    if limit.is_some_and(|limit| limit < wanted) {
        let mend = "give it 16 MiB: MemoryMax= of the unit, or resources.limits.memory of the pod";
        desk.say(Check::Memory, Verdict::Warning, seen, mend);
    } else if free.is_some_and(|free| free < wanted) {
        desk.say(Check::Memory, Verdict::Warning, seen, "see what takes it: ps aux --sort -rss");
    } else {
        desk.ok(Check::Memory, seen);
    }
}

/// The smallest limit on the way from a group up, in version 1 or 2 of control groups.
fn memory_limit(groups: &str, root: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let place = base.join(path.trim_start_matches('/'));
        // Within a container the path is the host's, and what is mounted is the group itself.
        let place = if place.exists() { place } else { base.clone() };
        for group in place.ancestors().take_while(|group| group.starts_with(&base)) {
            let text = group.join(file).to_str().and_then(read).unwrap_or_default();
            // "max", or in version 1 nearly 2^63, is none.
            limits.extend(text.trim().parse::<u64>().ok().filter(|limit| *limit < 1 << 60));
        }
    }
    limits.into_iter().min()
}

/// What the kernel could give, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What this binary was built for.
#[derive(Clone, Copy)]
struct Built {
    name: &'static str,
    /// Whether it is for 32 bits.
    is_narrow: bool,
}

impl Built {
    const OURS: Self = Self {
        name: match (cfg!(target_arch = "arm"), cfg!(target_feature = "v7")) {
            (true, false) => "armv6",
            (true, true) => "armv7",
            _ => std::env::consts::ARCH,
        },
        is_narrow: cfg!(target_pointer_width = "32"),
    };
}

/// What a kernel calls a machine with 64 bits.
const WIDE: [&str; 4] = ["aarch64", "riscv64", "s390x", "x86_64"];

/// The kernel on which k3s and the binary's own calls are known to work; and the first one with times beyond 2038 on 32 bits.
const KERNEL: [(u32, u32); 2] = [(4, 15), (5, 1)];

fn judge_machine(built: Built, machine: &str, release: &str) -> (Verdict, String, &'static str) {
    let Built { name, is_narrow } = built;
    let seen = format!("Linux {release} on {machine}, by the {name} build");
    let version = version(release);
    if version.is_some_and(|version| version < KERNEL[0]) {
        return (Verdict::Warning, seen, "update the system: this kernel is older than any that this was tried on (4.15)");
    }
    if is_narrow && version.is_some_and(|version| version < KERNEL[1]) {
        return (Verdict::Note, seen, "with 32 bits this kernel ends in January 2038; one from 5.1 on does not");
    }
    if is_narrow && WIDE.contains(&machine) {
        return (Verdict::Note, seen, "this machine has 64 bits: the build for it is the better one where the system is 64-bit too");
    }
    // Not by /proc/cpuinfo: an ARMv6 calls itself 7 there.
    if name == "armv6" && (machine.starts_with("armv7") || machine.starts_with("armv8")) {
        return (Verdict::Note, seen, "it works; for k3s on this machine the armv7 build is there as well");
    }
    (Verdict::Ok, seen, "")
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Built, available, judge_machine, memory_limit};
    use crate::doctor::Verdict;
    use std::fs;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts_in_either_version() {
        let root = tempfile::tempdir().unwrap();
        let set = |group: &str, file: &str, text: &str| {
            let group = root.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(file), text).unwrap();
        };
        set("system.slice", "memory.max", "8388608\n");
        set("system.slice/pullet.service", "memory.max", "max\n");
        let limit = |groups: &str| memory_limit(groups, root.path());
        assert_eq!(limit("0::/system.slice/pullet.service\n"), Some(8_388_608));
        assert_eq!(limit("0::/other\n"), None);
        set("memory/pod", "memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit("4:memory:/pod\n1:cpu,cpuacct:/pod\n0::/other\n"), None);
        set("memory/pod", "memory.limit_in_bytes", "16777216\n");
        assert_eq!(limit("4:memory:/pod\n0::/other\n"), Some(16_777_216));
        set("memory", "memory.limit_in_bytes", "1048576\n");
        assert_eq!(limit("4:memory:/of/the/host\n"), Some(1_048_576));
        for garbage in ["", "::", "4:memory", "x\n4:memory:\n", "0::/../../.."] {
            let _ = limit(garbage);
        }
    }

    #[test]
    fn what_the_kernel_could_give_is_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2_097_152));
        for garbage in ["", "MemAvailable:", "MemAvailable: x kB", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(available(garbage), None);
        }
    }

    #[test]
    fn a_build_that_fits_another_machine_better_is_noted() {
        let arm = |name| Built { name, is_narrow: true };
        let pc = Built { name: "x86_64", is_narrow: false };
        for (built, machine, release, expected) in [
            (pc, "x86_64", "6.1.0-18-amd64", Verdict::Ok),
            (pc, "x86_64", "3.10.0-1160.el7", Verdict::Warning),
            (pc, "x86_64", "garbage", Verdict::Ok),
            (arm("armv6"), "armv6l", "6.1.21+", Verdict::Ok),
            (arm("armv6"), "armv7l", "6.1.21-v7+", Verdict::Note),
            (arm("armv7"), "armv7l", "6.1.21-v7+", Verdict::Ok),
            (arm("armv7"), "armv7l", "4.19.66-v7+", Verdict::Note),
            (arm("armv7"), "aarch64", "6.1.21-v8+", Verdict::Note),
        ] {
            let (verdict, seen, mend) = judge_machine(built, machine, release);
            assert_eq!(verdict, expected, "{seen}");
            assert_eq!(mend.is_empty(), verdict == Verdict::Ok, "{seen}");
        }
    }
}
