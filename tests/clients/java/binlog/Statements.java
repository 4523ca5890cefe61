import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

/**
 * Asks by Connector/J what tools ask of a source: a line of JSON per statement, with the columns
 * and rows, or the number of the error. It reads no binary log.
 */
final class Statements {
  private Statements() {}

  public static void main(String[] arguments) throws Exception {
    Properties options = new Properties();
    try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
      options.load(file);
    }
    Properties login = new Properties();
    login.setProperty("user", options.getProperty("user"));
    login.setProperty("password", options.getProperty("password"));
    login.setProperty("allowPublicKeyRetrieval", "true");
    boolean tls = !options.getProperty("tls", "").isEmpty();
    login.setProperty("sslMode", tls ? "REQUIRED" : "DISABLED");
    login.setProperty("useCompression", String.valueOf(!options.getProperty("compression", "").isEmpty()));
    login.setProperty("connectTimeout", "10000");
    String address = options.getProperty("address");
    try (Connection connection = DriverManager.getConnection("jdbc:mysql://" + address + "/", login)) {
      for (int number = 0; options.containsKey("statement" + number); number++) {
        ask(connection, options.getProperty("statement" + number));
      }
    }
  }

  private static void ask(Connection connection, String statement) {
    StringBuilder line = new StringBuilder("{\"statement\":" + quoted(statement));
    try (Statement asked = connection.createStatement();
        ResultSet result = asked.executeQuery(statement)) {
      int columns = result.getMetaData().getColumnCount();
      line.append(",\"columns\":[");
      for (int column = 1; column <= columns; column++) {
        line.append(column > 1 ? "," : "").append(quoted(result.getMetaData().getColumnLabel(column)));
      }
      line.append("],\"rows\":[");
      for (boolean first = true; result.next(); first = false) {
        line.append(first ? "[" : ",[");
        for (int column = 1; column <= columns; column++) {
          line.append(column > 1 ? "," : "").append(quoted(result.getString(column)));
        }
        line.append("]");
      }
      line.append("]");
    } catch (SQLException error) {
      line.append(",\"error\":").append(error.getErrorCode());
      System.err.println(statement + ": " + error.getMessage());
    }
    System.out.println(line.append("}"));
  }

  private static String quoted(String text) {
    if (text == null) {
      return "null";
    }
    StringBuilder quoted = new StringBuilder("\"");
    for (char each : text.toCharArray()) {
      if (each == '"' || each == '\\') {
        quoted.append('\\').append(each);
      } else if (each < ' ' || each > '~') {
        quoted.append(String.format("\\u%04x", (int) each));
      } else {
        quoted.append(each);
      }
    }
    return quoted.append('"').toString();
  }
}
