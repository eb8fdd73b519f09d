//! `gavel judge`: make a judge and see what it is.

mod info;
mod train;

use clap::Subcommand;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a judge from mined samples and choose its operating points
    Train(train::Args),
    /// Show what a judge is, where it came from and what it fits
    Info(info::Args),
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Train(args) => train::run(args),
        Command::Info(args) => info::run(args),
    }
}

/// A share, a precision or an area, for people.
fn figure(value: f64) -> String {
    format!("{value:.3}")
}
