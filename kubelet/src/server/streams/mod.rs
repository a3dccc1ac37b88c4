//! Streams of commands over WebSocket, for clients that speak `v5.channel.k8s.io` or port-forward through WebSocket.
//!
//! Runtimes speak SPDY/3.1, and of WebSocket only older protocols in which a client cannot end a command's input. So
//! `websocket` is what the client speaks, `spdy` what the runtime speaks, and `translate` carries the bytes between them.

pub mod spdy;
pub mod translate;
pub mod websocket;
