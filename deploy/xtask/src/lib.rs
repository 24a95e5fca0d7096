//! What the project's own commands and its end-to-end tests share.

pub mod debian;
pub mod netns;
pub mod peers;
pub mod shell;
