//! Where the node's records go: to the log, and to qlog files that a thread of their own writes.
//!
//! The IO thread never waits for a file: what the writer has no room for is counted, and the next record
//! says how many are missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File as OsFile, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

use pilot_proto::{
    node::{Node, Record, What},
    qlog::{self, File, Files},
    trace::Detail,
};
use tracing::{debug, trace, warn};

/// Records handed to the writer at once.
const BATCH: usize = 4096;
/// Batches that may wait for the writer.
const MAX_BATCHES: usize = 64;
/// Bytes of one file; the rest is left out.
const MAX_FILE: u64 = 256 << 20;

/// What is recorded and where it goes.
#[derive(Clone, Debug, Default)]
pub struct TraceConfig {
    /// What goes to the log: changes at level debug, packets at level trace.
    pub log: Option<Detail>,
    /// Folder of the qlog files.
    pub qlog: Option<PathBuf>,
}

impl TraceConfig {
    /// How much the node must record.
    pub(crate) fn detail(&self) -> Option<Detail> {
        if self.qlog.is_some() { Some(Detail::Packets) } else { self.log }
    }
}

/// The IO thread's end.
#[derive(Default)]
pub(crate) struct Sink {
    log: Option<Detail>,
    writer: Option<Writer>,
}

impl Sink {
    /// Starts the writer if there is a folder.
    pub(crate) fn new(config: &TraceConfig) -> io::Result<Self> {
        let writer = config.qlog.clone().map(Writer::start).transpose()?;
        Ok(Self { log: config.log, writer })
    }

    /// Whether there is anything to take.
    pub(crate) fn is_on(&self) -> bool {
        self.log.is_some() || self.writer.is_some()
    }

    /// Takes what the node recorded.
    pub(crate) fn take(&mut self, node: &mut Node) {
        while let Some(record) = node.poll_trace() {
            if self.log.is_some() {
                log(&record);
            }
            if let Some(writer) = &mut self.writer {
                writer.push(record);
            }
        }
        let overflow = node.take_trace_overflow();
        if let Some(writer) = &mut self.writer {
            writer.missing += overflow;
            writer.flush();
        }
    }
}

fn log(record: &Record) {
    let is_packet = record.what.is_packet();
    let (name, data) = qlog::describe(&record.what);
    match (&record.what, is_packet) {
        (What::Peer(node, _), _) => debug!(peer = node.0, "{name} {data}"),
        (What::Opened { id, .. } | What::Connection(id, _), false) => {
            debug!(connection = id.0, "{name} {data}");
        }
        (What::Connection(id, _), true) => trace!(connection = id.0, "{name} {data}"),
        (What::Dropped(_), _) | (What::Opened { .. }, true) => debug!("{name} {data}"),
    }
}

/// Some records, and how many before them are missing.
struct Batch {
    records: Vec<Record>,
    missing: u64,
}

/// The thread that writes files, and what waits for it.
struct Writer {
    batches: Option<SyncSender<Batch>>,
    records: Vec<Record>,
    missing: u64,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let (batches, receiver) = sync_channel(MAX_BATCHES);
        let worker = move || write_all(&dir, &receiver);
        let thread = thread::Builder::new().name("pilot-qlog".into()).spawn(worker)?;
        Ok(Self { batches: Some(batches), records: Vec::new(), missing: 0, thread: Some(thread) })
    }

    fn push(&mut self, record: Record) {
        self.records.push(record);
        if self.records.len() >= BATCH {
            self.flush();
        }
    }

    /// Hands over what there is, or counts it where there is no room.
    fn flush(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let Some(batches) = &self.batches else { return self.records.clear() };
        let batch = Batch { records: core::mem::take(&mut self.records), missing: self.missing };
        self.missing = 0;
        match batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => self.missing = batch.missing + batch.records.len() as u64,
            // It said why.
            Err(TrySendError::Disconnected(_)) => self.batches = None,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes batches until there are no more.
fn write_all(dir: &std::path::Path, batches: &Receiver<Batch>) {
    let mut folder = Folder::new(dir.to_owned());
    while let Ok(batch) = batches.recv() {
        if let Err(error) = folder.write(&batch) {
            warn!("no more qlog in {}: {error}", dir.display());
            return;
        }
    }
}

/// The files of this process.
struct Folder {
    dir: PathBuf,
    files: Files,
    /// Bytes of the files that exist; a connection's until it is closed.
    lengths: BTreeMap<File, u64>,
}

impl Folder {
    fn new(dir: PathBuf) -> Self {
        Self { dir, files: Files::default(), lengths: BTreeMap::new() }
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut texts: BTreeMap<File, String> = BTreeMap::new();
        let mut closed = BTreeSet::new();
        if let Some(first) = batch.records.first().filter(|_| batch.missing > 0) {
            let text = qlog::overflow(first.at, batch.missing);
            texts.entry(File::Node).or_insert_with(|| self.start(File::Node, false)).push_str(&text);
        }
        for record in &batch.records {
            let is_client = matches!(record.what, What::Opened { is_inbound: false, .. });
            let line = qlog::line(record);
            for file in self.files.of(record) {
                texts.entry(file).or_insert_with(|| self.start(file, is_client)).push_str(&line);
                if record.what.is_last() {
                    closed.insert(file);
                }
            }
        }
        for (file, text) in texts {
            self.append(file, &text)?;
        }
        self.lengths.retain(|file, _| !closed.contains(file));
        Ok(())
    }

    /// What a file begins with: nothing if it exists.
    fn start(&self, file: File, is_client: bool) -> String {
        if self.lengths.contains_key(&file) { String::new() } else { qlog::header(file, is_client) }
    }

    fn append(&mut self, file: File, text: &str) -> io::Result<()> {
        let length = self.lengths.entry(file).or_default();
        if *length > MAX_FILE {
            return Ok(());
        }
        *length += text.len() as u64;
        let name = format!("{}-{file}", std::process::id());
        let mut file: OsFile = OpenOptions::new().create(true).append(true).open(self.dir.join(name))?;
        file.write_all(text.as_bytes())
    }
}
