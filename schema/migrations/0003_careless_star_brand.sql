CREATE TABLE `examples` (
	`owner` text NOT NULL,
	`name` text NOT NULL,
	`prediction_id` text NOT NULL,
	`document` text NOT NULL,
	`created_at` integer NOT NULL,
	PRIMARY KEY(`owner`, `name`, `prediction_id`)
);
--> statement-breakpoint
CREATE INDEX `examples_by_created` ON `examples` (`owner`,`name`,`created_at`,`prediction_id`);--> statement-breakpoint
DROP INDEX `models_by_created`;--> statement-breakpoint
DROP INDEX `models_by_version_at`;--> statement-breakpoint
ALTER TABLE `models` ADD `announced` text;--> statement-breakpoint
CREATE INDEX `models_by_created` ON `models` (`created_at`,`owner`,`name`);--> statement-breakpoint
CREATE INDEX `models_by_version_at` ON `models` (`latest_version_at`,`owner`,`name`);--> statement-breakpoint
ALTER TABLE `versions` ADD `run_by_others` integer DEFAULT false NOT NULL;