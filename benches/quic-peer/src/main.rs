//! `quic-peer receive ADDRESS` accepts connections and discards their data; it prints a line `NANOSECONDS
//! BYTES` about every ten milliseconds, counted from the first byte of each connection. `quic-peer send
//! ADDRESS SECONDS` connects and sends for that long.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt, congestion::CubicConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

type Failure = Box<dyn Error + Send + Sync>;

/// Accepts any certificate: the lab has no names, and the benchmark measures transport.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Windows as large as our maximum, and the usual congestion controller.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(Arc::new(CubicConfig::default()))
        .stream_receive_window(VarInt::from_u32(32 << 20))
        .receive_window(VarInt::from_u32(32 << 20))
        .send_window(64 << 20);
    Arc::new(config)
}

async fn receive(address: SocketAddr) -> Result<(), Failure> {
    let certified = rcgen::generate_simple_self_signed(["peer".into()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![certified.cert.der().clone()], key.into())?;
    config.transport_config(transport());
    let endpoint = Endpoint::server(config, address)?;
    println!("ready");
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        let Ok(mut stream) = connection.accept_uni().await else {
            println!("end");
            continue;
        };
        let (mut received, mut begin, mut shown) = (0, None, Duration::ZERO);
        while let Ok(Some(chunk)) = stream.read_chunk(1 << 20, true).await {
            let now = std::time::Instant::now();
            let elapsed = now - *begin.get_or_insert(now);
            received += chunk.bytes.len();
            if elapsed >= shown + Duration::from_millis(10) {
                shown = elapsed;
                println!("{} {received}", elapsed.as_nanos());
            }
        }
        println!("end");
    }
    Ok(())
}

async fn send(address: SocketAddr, seconds: f64) -> Result<(), Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let crypto = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let mut config =
        ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(crypto)?));
    config.transport_config(transport());
    let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(address, "peer")?.await?;
    let mut stream = connection.open_uni().await?;
    let data = vec![0x5a; 1 << 16];
    let sending = async { while stream.write_all(&data).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_secs_f64(seconds), sending).await;
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["receive", address] => receive(address.parse()?).await,
        ["send", address, seconds] => send(address.parse()?, seconds.parse()?).await,
        _ => Err("usage: quic-peer receive ADDRESS | send ADDRESS SECONDS".into()),
    }
}
