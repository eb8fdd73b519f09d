//! What only shows in the long run: engines side by side keep their memory and their outputs, and
//! Ctrl-C leaves no partial file. Short here; `make soak` runs it for SOAK_SECONDS (1,800).

#[path = "../common/mod.rs"]
mod common;
mod decode;
#[cfg(unix)]
mod interrupt;

use std::time::Duration;

#[test]
fn engines_side_by_side_repeat_what_each_does_alone_and_keep_their_memory() {
    decode::soak(Duration::from_secs(8), decode::Slack::Short);
}

#[test]
#[cfg(unix)]
fn an_interrupt_at_any_moment_leaves_no_partial_file() {
    interrupt::soak(Duration::from_secs(8));
}

#[test]
#[ignore = "half an hour: make soak"]
fn for_long() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(1800, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("SOAK_SECONDS={text}: expected a number of seconds"))
    });
    // the files get a tenth of the time, for themselves: memory is of engines alone
    decode::soak(Duration::from_secs(seconds * 9 / 10), decode::Slack::Long);
    #[cfg(unix)]
    interrupt::soak(Duration::from_secs(seconds / 10));
}
