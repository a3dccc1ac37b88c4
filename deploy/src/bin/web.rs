//! The demonstration server: answers every request with the name of its pod, so that a caller sees who answered.
//!
//! Listens on port 80 or on the port given as its argument; ends at SIGTERM.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

const IDLE: Duration = Duration::from_secs(30);
const MAX_HEADER_LINES: usize = 100;

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(80u16);
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    println!("{} listens on port {port}", name.trim());
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(0);
        }
    });
    for stream in listener.incoming().flatten() {
        let name = name.clone();
        std::thread::spawn(move || {
            // a client that goes away mid-answer is its own affair
            let _ = answer(&stream, &name);
        });
    }
    Ok(())
}

fn answer(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(request) = lines.next().transpose()? else { return Ok(()) };
        let mut close = request.ends_with("HTTP/1.0");
        for line in lines.by_ref().take(MAX_HEADER_LINES) {
            let line = line?;
            close |= line.eq_ignore_ascii_case("connection: close");
            if line.is_empty() {
                break;
            }
        }
        println!("{request}");
        let length = name.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{name}");
        let mut out = stream;
        out.write_all(head.as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
