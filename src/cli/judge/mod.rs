//! `gavel judge`: make a judge and see what it is.

mod info;
mod mine;
mod train;

use clap::Subcommand;
use gavel::judge::Layout;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make labelled samples from prompts: the target answers, the drafter reads along
    Mine(Box<mine::Args>),
    /// Train a judge from mined samples and choose its operating points
    Train(train::Args),
    /// Show what a judge is, where it came from and what it fits
    Info(info::Args),
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Mine(args) => mine::run(args),
        Command::Train(args) => train::run(args),
        Command::Info(args) => info::run(args),
    }
}

/// A share, a precision or an area, for people.
fn figure(value: f64) -> String {
    format!("{value:.3}")
}

fn layout(text: &str) -> Result<Layout, String> {
    match text {
        "DT" => Ok(Layout::Dt),
        "DD-DT" => Ok(Layout::DdDt),
        _ => Err("expected DT or DD-DT".to_owned()),
    }
}
