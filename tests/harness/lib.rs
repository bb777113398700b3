//! What the real-server tests share: servers, engines, workloads, checkers.
