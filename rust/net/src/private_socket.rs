//! Unix sockets at a path, open to this user alone from the moment they exist.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::Path,
};

// mio's connect never waits; a blocking one does while the backlog is full.
use mio::net::{UnixListener, UnixStream};
use socket2::{Domain, SockAddr, Socket, Type};

const BACKLOG: i32 = 1024;
const MODE: u32 = 0o600;

/// Listens at `path`. What a process of this user that is gone left there is replaced; anything else is
/// left alone.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            fs::remove_file(path)?;
            bind(path)
        }
        other => other,
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the path the mode of the socket, less the umask. Elsewhere the mode follows below.
    // SAFETY: fchmod has no memory effects.
    unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) };
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from_std(OwnedFd::from(socket).into()))
}

/// Whether a socket of this user is there that nobody listens on.
fn is_left_behind(path: &Path) -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    let user = unsafe { libc::geteuid() };
    let is_own =
        fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket() && found.uid() == user);
    is_own && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as Blocking;

    use super::*;

    struct Directory(std::path::PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pilot-socket-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_open_to_its_user_alone() {
        let directory = Directory::new("mode");
        let path = directory.0.join("s");
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn replaces_what_a_dead_process_left() {
        let directory = Directory::new("stale");
        let path = directory.0.join("s");
        drop(Blocking::bind(&path).unwrap());
        let _listener = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn leaves_what_is_in_use_or_no_socket() {
        let directory = Directory::new("live");
        let live = directory.0.join("live");
        let _listener = Blocking::bind(&live).unwrap();
        assert_eq!(listen(&live).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let file = directory.0.join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(listen(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        let link = directory.0.join("link");
        drop(Blocking::bind(directory.0.join("gone")).unwrap());
        std::os::unix::fs::symlink(directory.0.join("gone"), &link).unwrap();
        assert_eq!(listen(&link).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
