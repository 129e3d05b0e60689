//! The live screen of `top`: what it knows, what it shows, and the terminal. Figures come from a [`state::LiveSource`].

pub mod screen;
pub mod state;
pub mod terminal;
