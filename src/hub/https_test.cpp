// The encrypted half: certificates made on the spot, checked for real.
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "hub/http.h"
#include "hub/test_server.h"

namespace edgewise::hub {
namespace {

namespace fs = std::filesystem;

class HttpsTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-https-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    make_certificate("good", "IP:127.0.0.1");
    make_certificate("other", "DNS:example.org");
  }
  void TearDown() override {
    ::unsetenv("SSL_CERT_FILE");
    fs::remove_all(directory_);
  }

  std::string file(const std::string& name) const { return directory_ / name; }

  // A self-signed certificate that is its own authority.
  void make_certificate(const std::string& name, const std::string& subject_alternative) {
    const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(::EVP_RSA_gen(2048), ::EVP_PKEY_free);
    const std::unique_ptr<X509, void (*)(X509*)> certificate(::X509_new(), ::X509_free);
    ::X509_set_version(certificate.get(), 2);
    ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate.get()), 1);
    ::X509_gmtime_adj(::X509_getm_notBefore(certificate.get()), -3600);
    ::X509_gmtime_adj(::X509_getm_notAfter(certificate.get()), 3600);
    ::X509_set_pubkey(certificate.get(), key.get());
    X509_NAME* subject = ::X509_get_subject_name(certificate.get());
    ::X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("test"), -1, -1,
                                 0);
    ::X509_set_issuer_name(certificate.get(), subject);
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    ::X509V3_set_ctx(&context, certificate.get(), certificate.get(), nullptr, nullptr, 0);
    for (const auto& [id, value] : {std::pair<int, std::string>{NID_basic_constraints, "critical,CA:TRUE"},
                                    std::pair<int, std::string>{NID_subject_alt_name, subject_alternative}}) {
      X509_EXTENSION* extension = ::X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
      ::X509_add_ext(certificate.get(), extension, -1);
      ::X509_EXTENSION_free(extension);
    }
    ::X509_sign(certificate.get(), key.get(), ::EVP_sha256());
    const auto write = [](const std::string& path, auto writer) {
      std::FILE* out = std::fopen(path.c_str(), "w");
      writer(out);
      std::fclose(out);
    };
    write(file(name + ".pem"), [&](std::FILE* out) { ::PEM_write_X509(out, certificate.get()); });
    write(file(name + ".key"),
          [&](std::FILE* out) { ::PEM_write_PrivateKey(out, key.get(), nullptr, nullptr, 0, nullptr, nullptr); });
  }

  std::string get(const std::string& certificate) {
    TestServer server(
        [](const TestRequest&) {
          return TestReply{200, {}, std::string(300'000, 'x')};
        },
        file(certificate + ".pem"), file(certificate + ".key"));
    try {
      HttpGet request(parse_url(server.url() + "/file"), {});
      return std::to_string(request.read_all(1 << 20).size());
    } catch (const Error& error) {
      return error.what();
    }
  }

  fs::path directory_;
};

TEST_F(HttpsTest, TrustsTheGivenAuthority) {
  ::setenv("SSL_CERT_FILE", file("good.pem").c_str(), 1);
  EXPECT_EQ(get("good"), "300000");
}

TEST_F(HttpsTest, RefusesUnknownAuthorities) {
  EXPECT_NE(get("good").find("self-signed certificate"), std::string::npos) << get("good");
}

TEST_F(HttpsTest, RefusesOtherNames) {
  ::setenv("SSL_CERT_FILE", file("other.pem").c_str(), 1);
  EXPECT_NE(get("other").find("IP address mismatch"), std::string::npos) << get("other");
}

}  // namespace
}  // namespace edgewise::hub
