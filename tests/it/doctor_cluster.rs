//! `pullet doctor` in a cluster: each check sees the one thing that is broken, and no other one does.
