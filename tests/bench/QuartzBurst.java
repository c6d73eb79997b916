// Quartz, clustered through PostgreSQL, for job_peers.py: jobs all due at one instant.
//
//     java -cp ... QuartzBurst load|work JDBC-URL [JOBS DUE]
//
// A job notes its own start in a file of its process in PEER_NOTES, as its first act.

import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.Statement;
import java.util.Date;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.quartz.Job;
import org.quartz.JobBuilder;
import org.quartz.JobDetail;
import org.quartz.JobExecutionContext;
import org.quartz.Scheduler;
import org.quartz.Trigger;
import org.quartz.TriggerBuilder;
import org.quartz.impl.StdSchedulerFactory;

public class QuartzBurst {
    private static FileOutputStream notes;

    public static class Noted implements Job {
        @Override
        public void execute(JobExecutionContext context) {
            long now = System.currentTimeMillis();
            String line = context.getJobDetail().getKey().getName() + " " + now / 1000 + "."
                + String.format("%03d", now % 1000) + "\n";
            synchronized (QuartzBurst.class) {
                try {
                    if (notes == null) {
                        String file = System.getenv("PEER_NOTES") + "/" + ProcessHandle.current().pid();
                        notes = new FileOutputStream(file, true);
                    }
                    notes.write(line.getBytes(StandardCharsets.US_ASCII));
                } catch (IOException error) {
                    throw new IllegalStateException(error);
                }
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Class.forName("org.postgresql.Driver");
        String url = arguments[1];
        if (arguments[0].equals("load")) {
            createTables(url);
            Scheduler scheduler = scheduler(url);
            load(scheduler, Integer.parseInt(arguments[2]), new Date((long) (Double.parseDouble(arguments[3]) * 1000)));
            scheduler.shutdown();
        } else {
            scheduler(url).start();
        }
    }

    private static void createTables(String url) throws Exception {
        String name = "/org/quartz/impl/jdbcjobstore/tables_postgres.sql";
        try (InputStream file = Scheduler.class.getResourceAsStream(name);
                Connection connection = DriverManager.getConnection(url);
                Statement statement = connection.createStatement()) {
            statement.execute(new String(file.readAllBytes(), StandardCharsets.UTF_8));
        }
    }

    private static void load(Scheduler scheduler, int jobs, Date due) throws Exception {
        Map<JobDetail, Set<? extends Trigger>> all = new HashMap<>();
        for (int number = 0; number < jobs; number++) {
            JobDetail job = JobBuilder.newJob(Noted.class).withIdentity(String.valueOf(number)).build();
            all.put(job, Set.of(TriggerBuilder.newTrigger().startAt(due).forJob(job).build()));
        }
        scheduler.scheduleJobs(all, false);
    }

    private static Scheduler scheduler(String url) throws Exception {
        Properties said = new Properties();
        said.put("org.quartz.scheduler.instanceName", "bench");
        said.put("org.quartz.scheduler.instanceId", "AUTO");
        said.put("org.quartz.scheduler.skipUpdateCheck", "true");
        said.put("org.quartz.scheduler.batchTriggerAcquisitionMaxCount", "10");
        said.put("org.quartz.threadPool.threadCount", "10");
        said.put("org.quartz.jobStore.class", "org.quartz.impl.jdbcjobstore.JobStoreTX");
        said.put("org.quartz.jobStore.driverDelegateClass", "org.quartz.impl.jdbcjobstore.PostgreSQLDelegate");
        said.put("org.quartz.jobStore.dataSource", "bench");
        said.put("org.quartz.jobStore.isClustered", "true");
        said.put("org.quartz.jobStore.acquireTriggersWithinLock", "true");
        said.put("org.quartz.jobStore.misfireThreshold", "600000");
        said.put("org.quartz.dataSource.bench.driver", "org.postgresql.Driver");
        said.put("org.quartz.dataSource.bench.URL", url);
        said.put("org.quartz.dataSource.bench.maxConnections", "15");
        return new StdSchedulerFactory(said).getScheduler();
    }
}
