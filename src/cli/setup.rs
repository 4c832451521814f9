//! `pullet setup` and `pullet uninstall`: what they need of the other commands.

use super::{Failure, rbac, register};
use crate::doctor;
use crate::setup::{self, Means, Options, SetupError};
use crate::texts;

/// Sets an agent up.
pub(super) fn setup(options: Options) -> Result<(), Failure> {
    run(options, setup::setup)
}

/// Takes it away.
pub(super) fn uninstall(options: Options) -> Result<(), Failure> {
    run(options, setup::uninstall)
}

fn run(options: Options, command: fn(Options, &Means<'_>) -> Result<(), SetupError>) -> Result<(), Failure> {
    let (definitions, cluster) = (texts::definitions(), texts::cluster());
    let means = Means {
        definitions: &definitions,
        cluster: &cluster,
        rights: &rbac::text,
        register: &|config| {
            let exchanged = register::exchange(config, false).map_err(|failure| failure.error);
            doctor::be_root_again();
            exchanged
        },
    };
    command(options, &means).map_err(|error| {
        if error.is_usage() {
            return Failure::usage(error);
        }
        Failure::failed(error)
    })
}
