// What the second master takes, as a load profile says it: one step after another from the file load_profile.txt in the
// simulator's working directory.
//
// A line of the file is a step: cycles (at least 1), share of the bandwidth in 1/256, number of the master, and 1 if it takes its beats
// at random or 0 if evenly. While `run` is 1 the steps take effect, the first one from the second cycle on. After the last one
// the first follows if `repeats` is 1, and nothing is taken any more if it is 0.

`default_nettype none

module cosim_load #(
    parameter ID_BITS = 2
) (
    input  wire               clk,
    input  wire               run,
    input  wire               repeats,
    output reg                active,  // the profile says what is taken
    output reg          [8:0] share,
    output reg  [ID_BITS-1:0] id,
    output reg                random
);
    integer file, fields, cycles, next_share, next_id, next_random;
    reg [31:0] left;  // cycles of the step after this one

    initial begin
        file = 0;
        active = 0;
        share = 0;
        id = 0;
        random = 0;
        left = 0;
    end

    task open;
        file = $fopen("load_profile.txt", "r");
    endtask

    task read_step;
        if (file == 0) fields = 0;
        else fields = $fscanf(file, "%d %d %d %d", cycles, next_share, next_id, next_random);
    endtask

    task next_step;
        begin
            read_step;
            if (fields != 4 && repeats) begin
                $fclose(file);
                open;
                read_step;
            end
            // A profile that is over takes nothing for as long as it runs.
            left = fields == 4 ? cycles - 1 : 32'hffff_ffff;
            share <= fields == 4 ? next_share[8:0] : 9'd0;
            id <= next_id[ID_BITS-1:0];
            random <= fields == 4 && next_random != 0;
        end
    endtask

    always @(posedge clk) begin
        if (run != active) begin
            active <= run;
            share <= 0;
            if (file != 0) $fclose(file);
            file = 0;
            if (run) begin
                open;
                next_step;
            end
        end else if (run) begin
            if (left == 0) next_step;
            else left = left - 1;
        end
    end
endmodule

`default_nettype wire
