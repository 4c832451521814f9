//! Everything that reads bytes from outside, each as a function of bytes. A new one is a line in [`TARGETS`] and a
//! directory of seeds with its name in `tests/fuzz/corpus`; the fuzzer and the replay of the corpus find it there.

mod disk;
mod http;
mod operations;
mod owner;
pub(crate) mod records;
mod tape;
pub(crate) mod trust;
mod wire;

use pullet::journal::record;

/// One reader under attack. It panics when a promise is broken, and at nothing else.
pub(crate) struct Target {
    /// As `PULLET_FUZZ` and the directory of its corpus name it.
    pub(crate) name: &'static str,
    /// Takes any bytes.
    pub(crate) run: fn(&[u8]),
    /// Bytes it may hold at once, its own media included. The fuzzer counts them.
    #[allow(dead_code, reason = "the replay of the corpus does not count")]
    pub(crate) memory: usize,
}

const KIB: usize = 1024;

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "answer", run: wire::answer, memory: 1024 * KIB },
    Target { name: "canonical", run: trust::canonical_form, memory: 8192 * KIB },
    Target { name: "checkpoint", run: disk::checkpoint, memory: 1536 * KIB },
    Target { name: "config", run: owner::config, memory: 2048 * KIB },
    Target { name: "envelope", run: trust::envelope, memory: 512 * KIB },
    Target { name: "http", run: http::http, memory: 2048 * KIB },
    Target { name: "job", run: wire::job, memory: 4096 * KIB },
    Target { name: "journal", run: disk::journal, memory: 1536 * KIB },
    Target { name: "keyring", run: trust::keyring, memory: 1024 * KIB },
    Target { name: "kubeconfig", run: owner::kubeconfig, memory: 4096 * KIB },
    Target { name: "operations", run: operations::operations, memory: 1536 * KIB },
    Target { name: "signed", run: trust::signed, memory: 4096 * KIB },
    Target { name: "spool", run: disk::spool, memory: 6144 * KIB },
    Target { name: "state", run: trust::state, memory: 64 * KIB },
    Target { name: "stream", run: wire::stream, memory: 1024 * KIB },
];

/// Reads numbers and pieces out of any bytes; beyond their end there are zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Small ones, and those at the edges.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX - u64::from(self.byte()),
            254 => u64::from(self.byte()) << 32,
            253 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            small => u64::from(small),
        }
    }

    fn piece(&mut self, most: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        piece
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
