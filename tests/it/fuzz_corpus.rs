//! What the fuzzer found once, and its seeds, are tried in every run of the tests. `tests/run --fuzz` looks for more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::fuzz_targets::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn entries(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_target_has_seeds_and_every_directory_of_seeds_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let directories = entries(&corpus());
    let found: BTreeSet<&str> = directories.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(names, found);
}

#[test]
fn nothing_in_the_corpus_breaks_its_target_whole_or_cut_short() {
    for target in TARGETS {
        let files = entries(&corpus().join(target.name));
        assert!(!files.is_empty(), "{}", target.name);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1).chain([bytes.len()]) {
                let ran = std::panic::catch_unwind(|| (target.run)(&bytes[..end]));
                assert!(ran.is_ok(), "{}: the first {end} bytes of {}", target.name, file.display());
            }
        }
    }
}
