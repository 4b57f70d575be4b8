//! What happened to local programs.

pilot_proto::counters! {
    /// What happened to local programs; the names are those of `info`.
    pub struct LocalCounters {
        /// Frames that named a stream of somebody else.
        dropped_foreign,
        /// Drivers refused because there are too many, or dropped because they did not read.
        dropped_clients,
        /// Streams reset because no descriptor was free or nobody took them.
        dropped_streams,
        /// Requests refused at a limit.
        dropped_requests,
        /// Times that a connection could not be accepted.
        dropped_accepts,
        /// Datagrams that the UDP socket refused, and failures to receive.
        dropped_udp,
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs, path::Path};

    use pilot_proto::{beacon, node::NodeCounters, transport};

    use super::LocalCounters;

    fn table(title: &str, names: &[(&str, &str)]) -> String {
        let mut text = format!("\n## {title}\n\n| name | counts |\n|---|---|\n");
        for (name, meaning) in names {
            writeln!(text, "| `{name}` |{} |", meaning.replace(['[', ']'], "")).unwrap();
        }
        text
    }

    /// `UPDATE_DOCS=1 cargo test -p pilot-net counters` writes the page anew.
    #[test]
    fn the_page_of_counters_is_written_from_the_lists() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/counters.md");
        let head = "# Counters\n\nWritten from the lists in the sources; see `rust/net/src/counters.rs`. `pilotctl info` \
                    and `pilotctl connections` show them, and `/metrics` those of a node and a beacon.\n";
        let tables = [
            table("Of a node", NodeCounters::NAMES),
            table("Of local programs", LocalCounters::NAMES),
            table("Of a connection", transport::Counters::NAMES),
            table("Of a beacon", beacon::Counters::NAMES),
        ];
        let page = format!("{head}{}", tables.concat());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &page).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), page);
    }
}
