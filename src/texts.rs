//! Long texts that the program carries for whoever installs it. They are packed (`cross/pack.rs`), and only somebody who
//! asks for one has it in memory.

/// One after the other, with a zero between two.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/texts"));

/// The definitions of the custom resources, as a test makes them from the types, with the feature `crds`.
#[must_use]
pub fn definitions() -> String {
    unpack(0)
}

/// The manifests that make the agent a pod, with its settings before them.
#[must_use]
pub fn agent() -> String {
    unpack(1)
}

/// The rights for the default settings.
#[must_use]
pub fn rights() -> String {
    unpack(2)
}

/// What an agent needs beside them that goes by a Cluster.
#[must_use]
pub fn cluster() -> String {
    unpack(3)
}

/// The template of the admission policy for our own kinds.
#[must_use]
pub fn admission() -> String {
    unpack(4)
}

/// The template of the one for further kinds.
#[must_use]
pub fn admission_of_kinds() -> String {
    unpack(5)
}

/// The unit, for a node where no package has brought it.
#[must_use]
pub fn unit() -> String {
    unpack(6)
}

fn unpack(number: usize) -> String {
    // What was packed here comes out again: a test sees it do so.
    let all = lz4_flex::block::decompress_size_prepended(PACKED).unwrap_or_default();
    let text = all.split(|byte| *byte == 0).nth(number).unwrap_or_default();
    String::from_utf8(text.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_packed_is_what_lies_in_the_repository() {
        assert_eq!(super::definitions(), include_str!("../k3s/crds.yaml"));
        assert_eq!(super::agent(), concat!(include_str!("../k3s/settings.yaml"), include_str!("../k3s/agent.yaml")));
        assert_eq!(super::rights(), include_str!("../k3s/rbac.yaml"));
        assert_eq!(super::cluster(), include_str!("../k3s/cluster.yaml"));
        assert_eq!(super::admission(), include_str!("trust/policy/admission.yaml"));
        assert_eq!(super::admission_of_kinds(), include_str!("trust/policy/admission-kinds.yaml"));
        assert_eq!(super::unit(), include_str!("../systemd/pullet.service"));
    }
}
