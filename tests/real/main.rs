//! Tests against real servers. They need what `tests/servers/fetch` gets; without it they fail
//! rather than skip.

mod sandbox;
