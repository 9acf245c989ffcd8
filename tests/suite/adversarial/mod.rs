//! Attacks: every one gets a short correct answer or a closed connection, and no server sees it.

mod answers;
mod bodies;
mod frames;
mod heads;
mod json;
