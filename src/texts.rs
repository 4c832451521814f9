//! Long texts that the program carries for whoever installs it. They are packed (`cross/pack.rs`), and only somebody who
//! asks for one has it in memory.

macro_rules! packed {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

/// The definitions of the custom resources, as a test makes them from the types, with the feature `crds`.
#[must_use]
pub fn definitions() -> String {
    unpack(packed!("crds.yaml"))
}

/// The manifests that make the agent a pod, with its settings before them.
#[must_use]
pub fn agent() -> String {
    unpack(packed!("agent.yaml"))
}

/// The unit, for a node where no package has brought it.
#[must_use]
pub fn unit() -> String {
    unpack(packed!("pullet.service"))
}

fn unpack(packed: &[u8]) -> String {
    // What was packed here comes out again: a test sees it do so.
    let text = lz4_flex::block::decompress_size_prepended(packed).unwrap_or_default();
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_packed_is_what_lies_in_the_repository() {
        assert_eq!(super::definitions(), include_str!("../k3s/crds.yaml"));
        assert_eq!(super::agent(), concat!(include_str!("../k3s/settings.yaml"), include_str!("../k3s/agent.yaml")));
        assert_eq!(super::unit(), include_str!("../systemd/pullet.service"));
    }
}
