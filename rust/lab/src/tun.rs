//! A TUN device.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsRawFd, RawFd},
    os::unix::fs::OpenOptionsExt,
};

/// A TUN device, removed on drop.
pub(crate) struct Tun(File);

impl Tun {
    /// Creates a device.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: an all-zero request is a valid value of this plain structure.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        if name.is_empty() || name.len() >= request.ifr_name.len() || !name.is_ascii() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device name"));
        }
        for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is initialised and outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// Reads the next packet, if there is one.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The device is down while it is moved to its network namespace.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a packet; if the kernel refuses it, it is lost.
    pub(crate) fn write(&mut self, packet: &[u8]) {
        let _ = self.0.write(packet);
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
