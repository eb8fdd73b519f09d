//! The entry points, by subject.

macro_rules! api {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the driver interface.")]
            $(#[$meta])*
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $kind),*) -> $crate::driver::error::CUresult {
                $crate::driver::state::entry(stringify!($name), move || $body)
            }
        )*

        /// Names and addresses of the functions of this file.
        pub static TABLE: &[(&str, $crate::driver::symbols::Address)] = &[
            $((stringify!($name), $crate::driver::symbols::Address($name as *const ())),)*
        ];
    };
}

pub mod context;
pub mod device;
pub mod event;
pub mod graph;
pub mod graph_exec;
pub mod launch;
pub mod memory;
pub mod module;
pub mod pool;
pub mod stream;
pub mod transfer;
