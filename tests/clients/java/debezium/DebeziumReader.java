import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Properties;

/**
 * A reader by Debezium's embedded engine: one line of JSON per change, as docs/testing.md says. It
 * keeps its place in files beside its options, and connects again by itself.
 */
final class DebeziumReader {
  /** Longer values are shown by their digest. */
  private static final int LONG = 200;

  private static final ObjectMapper MAPPER = new ObjectMapper();

  static {
    // A row of 17 MiB is more than it takes otherwise.
    StreamReadConstraints limits = StreamReadConstraints.builder().maxStringLength(1 << 28).build();
    MAPPER.getFactory().setStreamReadConstraints(limits);
  }

  private DebeziumReader() {}

  public static void main(String[] arguments) throws Exception {
    Properties options = new Properties();
    try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
      options.load(file);
    }
    Properties settings = new Properties();
    settings.setProperty("name", "clients");
    settings.setProperty("connector.class", "io.debezium.connector.mysql.MySqlConnector");
    settings.setProperty("topic.prefix", "clients");
    settings.setProperty("database.hostname", options.getProperty("host"));
    settings.setProperty("database.port", options.getProperty("port"));
    settings.setProperty("database.user", options.getProperty("user"));
    settings.setProperty("database.password", options.getProperty("password"));
    settings.setProperty("database.server.id", options.getProperty("server-id"));
    boolean tls = !options.getProperty("tls", "").isEmpty();
    settings.setProperty("database.ssl.mode", tls ? "required" : "disabled");
    // It needs the public key where the connection is not encrypted.
    settings.setProperty("driver.allowPublicKeyRetrieval", "true");
    // A relay has no tables to take a snapshot of: everything comes from the binary log.
    settings.setProperty("snapshot.mode", "never");
    settings.setProperty("connect.keep.alive.interval.ms", "1000");
    settings.setProperty("include.schema.changes", "false");
    settings.setProperty("tombstones.on.delete", "false");
    settings.setProperty("database.include.list", "shop");
    settings.setProperty("schema.history.internal", "io.debezium.storage.file.history.FileSchemaHistory");
    settings.setProperty("schema.history.internal.file.filename", options.getProperty("state") + ".history");
    settings.setProperty("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
    settings.setProperty("offset.storage.file.filename", options.getProperty("state") + ".offsets");
    settings.setProperty("offset.flush.interval.ms", "0");
    settings.setProperty("key.converter.schemas.enable", "false");
    settings.setProperty("value.converter.schemas.enable", "false");
    DebeziumEngine<ChangeEvent<String, String>> engine =
        DebeziumEngine.create(Json.class)
            .using(settings)
            .using(
                (success, message, error) -> {
                  System.err.println("ended: " + message + " " + error);
                  Runtime.getRuntime().halt(success ? 0 : 1);
                })
            .notifying(DebeziumReader::take)
            .build();
    engine.run();
  }

  private static void take(ChangeEvent<String, String> event) {
    try {
      JsonNode value = MAPPER.readTree(event.value());
      JsonNode source = value.get("source");
      ObjectNode line = MAPPER.createObjectNode();
      line.put("kind", "row");
      line.put("change", name(value.get("op").asText()));
      line.put("table", source.get("db").asText() + "." + source.get("table").asText());
      line.set("gtid", source.get("gtid"));
      line.set("file", source.get("file"));
      line.set("position", source.get("pos"));
      line.set("row", source.get("row"));
      line.set("before", shown(value.get("before")));
      line.set("after", shown(value.get("after")));
      System.out.println(MAPPER.writeValueAsString(line));
      System.out.flush();
    } catch (Exception error) {
      System.err.println("a change that cannot be read: " + error);
      Runtime.getRuntime().halt(1);
    }
  }

  private static String name(String operation) {
    return switch (operation) {
      case "c" -> "insert";
      case "u" -> "update";
      case "d" -> "delete";
      default -> operation;
    };
  }

  private static JsonNode shown(JsonNode row) throws java.security.NoSuchAlgorithmException {
    if (row == null || !row.isObject()) {
      return row;
    }
    ObjectNode shown = MAPPER.createObjectNode();
    for (var fields = row.fields(); fields.hasNext(); ) {
      var field = fields.next();
      String text = field.getValue().asText();
      if (text.length() > LONG) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        byte[] sum = MessageDigest.getInstance("MD5").digest(bytes);
        text = bytes.length + " bytes, md5 " + HexFormat.of().formatHex(sum);
        shown.put(field.getKey(), text);
      } else {
        shown.set(field.getKey(), field.getValue());
      }
    }
    return shown;
  }
}
