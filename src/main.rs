//! The `pullet` command.
fn main() {}
